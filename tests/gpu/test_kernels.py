"""Kernels on a GPU: equal to eager in FP64 at odd and at real shapes, replayed from a CUDA graph, with FP8 units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from harness.check import operator_calls
from harness.check.operator_checks import check_slot
from harness.contract.fp8_tensors import quantise_blocks
from harness.contract.operators import FP8_SLOTS, Operators, reference_operators
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest
from harness.contract.slots import OPERATORS, SLOTS
from harness.measure.measurement import Bench
from harness.measure.no_model import without_model
from harness.measure.op import OpMeasurement
from harness.measure.op_cases import CASES, Draw, OpShape, caller, prepared
from harness.measure.operator_error import calc_diff
from harness.model.presets import PRESETS
from harness.records.record import Status
from harness.suite.cell import CellId
from harness.suite.schema import Op

pytestmark = pytest.mark.gpu

V32, MOE = PRESETS["v32-layer"], PRESETS["v32-moe-layer"]
DECODED = ("rms_norm", "add_rms_norm", "rotary", "swiglu", "mqa_attention", "mqa_sparse_attention", "index_scores",
           "select_topk", "grouped_experts")  # fmt: skip
"""Slots that a decode step calls, and that a captured graph therefore has to hold."""


def kernels(name: str) -> Operators:
    operators: Operators = Registry(entry_points=False).option("kernels", name).load()
    return operators


def config_of(operator: str) -> Any:
    return MOE if "experts" in operator else V32


def measured(operator: str, name: str = "triton", **shape: Any) -> Any:
    registry = Registry(entry_points=False)
    variant = registry.variant({"engine": "native", "kernels": name, "precision": "bf16"})
    parts = registry.load(variant)
    preset = "v32-moe-layer" if "experts" in operator else "v32-layer"
    runner = without_model(EngineRequest(preset, config_of(operator), variant, parts, "cuda", 0))
    weight = "gate_proj" if operator in ("linear", "fp8_gemm") else None
    workload = Op(operator=operator, weight=weight, **shape)
    fields = {"kind": "op", **msgspec.structs.asdict(workload)}
    bench = Bench(runner, parts, preset, 0, "cuda", Path("."))
    return OpMeasurement(workload, bench, CellId("t", fields, variant))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("slot", [slot for slot in SLOTS if slot not in FP8_SLOTS])
def test_odd_ragged_and_poisoned_calls_equal_the_reference(slot: str, precision: str) -> None:
    with torch.inference_mode():
        check_slot(getattr(operator_calls, slot), kernels("triton"), reference_operators(), precision, "cuda")


@pytest.mark.parametrize("shape", [{"length": 4099, "batch": 3}, {"length": 2500, "tokens": 130}], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_real_shapes_equal_the_reference(operator: str, shape: dict[str, Any]) -> None:
    if operator not in {*SLOTS, *kernels("triton").fused}:
        pytest.skip(f"kernels triton have no {operator}")
    with torch.inference_mode():
        answer = measured(operator, **shape)._check()
    assert not answer.faults


@pytest.mark.parametrize("operator", DECODED)
def test_a_captured_graph_replays_on_new_inputs(operator: str) -> None:
    """Nothing that a decode step calls may wait for the device or choose by what a tensor holds."""
    ops, shape = kernels("triton"), OpShape(config_of(operator), 2, 1, 3000)
    first, second = (
        prepared(operator, ops, CASES[operator].inputs(shape, Draw(seed, "cuda")), torch.bfloat16) for seed in (0, 1)
    )
    call = caller(operator, ops)
    with torch.inference_mode():
        wanted = call(*second)
        call(*first)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            given = call(*first)
        for old, new in zip(first, second, strict=True):
            if isinstance(old, torch.Tensor):
                old.copy_(new)
        graph.replay()
        torch.cuda.synchronize()
    for one, other in zip(*((part if isinstance(part, tuple) else (part,)) for part in (given, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["triton", "scaled_mm"])
@pytest.mark.parametrize("rows", [1, 64, 1030])
def test_the_fp8_product_runs_on_fp8_units(name: str, rows: int) -> None:
    if name == "scaled_mm" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("torch's block-scaled product needs Hopper")
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no FP8 units")
    ops, draw = kernels(name), Draw(0, "cuda")
    with torch.inference_mode():
        x, x_scales = ops.quantise(draw.normal(rows, 7168).bfloat16(), 128, True)
        weight = quantise_blocks(draw.weight(2048, 7168).bfloat16(), True)
        given = ops.fp8_gemm(x, x_scales, weight.values, weight.scales, torch.bfloat16)
        wanted = reference_operators().fp8_gemm(x, x_scales, weight.values, weight.scales, torch.float64)
    assert calc_diff(given, wanted) < 1e-5


def test_the_compiled_set_equals_the_reference_at_real_shapes() -> None:
    with torch.inference_mode():
        answer = measured("mqa_attention", "torch_compile", length=2500, batch=2)._check()
    assert not answer.faults


def test_a_measured_operator_gives_times_and_shares() -> None:
    measurement = measured("mqa_attention", length=8192, batch=8)
    measurement.warm_up()
    measurement.block()
    outcome = measurement.finish()
    assert outcome.status == Status.PASSED, outcome.reasons
    cold, warm = (outcome.metrics[name].value for name in ("latency_cold", "latency"))
    assert 0 < warm <= 1.2 * cold
    assert 0 < outcome.metrics["ceiling_share"].value < 1.1
    assert outcome.context["bound_by"] == "bytes"
