"""One operator alone: every slot can be asked for, faults are found, and work is counted as it is."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from harness.contract.operators import Operators, reference_operators
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest
from harness.contract.slots import CEILINGS, OPERATORS, SLOTS, WEIGHTS
from harness.errors import UsageError
from harness.measure.ceilings import Ceilings
from harness.measure.measurement import Bench, Outcome, Shared
from harness.measure.no_model import without_model
from harness.measure.op import OpMeasurement
from harness.measure.op_cases import CASES, COPY_BYTES, Draw, OpShape
from harness.measure.op_clock import CpuOpClock
from harness.measure.op_work import FORMULAS, work_of
from harness.model.presets import PRESETS
from harness.records.record import Status
from harness.suite.cell import CellId
from harness.suite.schema import Op

CONFIG = PRESETS["tiny-v32"]
V32 = PRESETS["v32-layer"]
TIMED = ("latency", "latency_cold", "flop_rate", "byte_rate", "ceiling_share")


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COPY_BYTES, "cpu", 1 << 16)
    monkeypatch.setattr("harness.measure.ceilings.SIDE", {"cpu": 32})


def measured(workload: Op, precision: str = "bf16", changes: dict[str, Any] | None = None) -> Outcome:
    registry = Registry(entry_points=False)
    variant = registry.variant({"engine": "native", "kernels": "eager", "precision": precision})
    parts = registry.load(variant)
    parts["kernels"] = dataclasses.replace(parts["kernels"], **(changes or {}))
    runner = without_model(EngineRequest("tiny-v32", CONFIG, variant, parts, "cpu", 0))
    bench = Bench(runner, parts, "tiny-v32", 0, "cpu", Path("."), shared=Shared())
    fields = {"kind": "op", **msgspec.structs.asdict(workload)}
    measurement = OpMeasurement(workload, bench, CellId("t", fields, variant))
    measurement.warm_up()
    measurement.block()
    return measurement.finish()


def workload(operator: str, **given: Any) -> Op:
    weight = "gate_proj" if operator in ("linear", "fp8_gemm") else None
    return Op(operator=operator, **{"length": 21, "tokens": 3, "batch": 2, "weight": weight, **given})


def test_the_names_of_slots_are_those_of_the_operator_table() -> None:
    from harness.contract.operators import FP8_FUSED, NOT_SLOTS

    fields = [field.name for field in dataclasses.fields(Operators) if field.name not in NOT_SLOTS]
    assert list(SLOTS) == fields
    assert set(OPERATORS) == {*fields, *FP8_FUSED}
    assert CASES.keys() == {*OPERATORS, *CEILINGS}
    assert FORMULAS.keys() == CASES.keys() - {"copy"}


@pytest.mark.parametrize("operator", [*SLOTS, *CEILINGS])
def test_every_operator_is_right_where_the_reference_computes_it(operator: str) -> None:
    outcome = measured(workload(operator))
    assert outcome.status == Status.PASSED, outcome.reasons
    assert outcome.context["held_against"]
    real = operator not in ("fp8_gemm", "fp8_grouped_experts", "fp8_index_scores")
    assert (outcome.metrics["latency"].value is not None) == real
    assert outcome.metrics["latency_cold"].withheld


def test_emulated_operators_are_checked_and_never_timed() -> None:
    outcome = measured(workload("fp8_gemm"))
    assert all("emulated" in str(outcome.metrics[name].withheld) for name in TIMED)
    assert outcome.metrics["error_ratio"].value > 2  # type: ignore[operator]


def wrong_mqa(*arguments: Any) -> torch.Tensor:
    out = reference_operators().mqa_attention(*arguments).clone()
    out[-1, -1, 0] *= 1.2
    return out


def test_a_wrong_operator_is_incorrect_and_gives_no_time() -> None:
    outcome = measured(workload("mqa_attention"), changes={"mqa_attention": wrong_mqa})
    assert outcome.status == Status.INCORRECT
    assert "relative L2 against FP64" in outcome.reasons[0]
    assert outcome.metrics["latency"].withheld == "the answer is wrong"
    assert outcome.metrics["error"].value > 0.01  # type: ignore[operator]


def test_a_value_that_is_not_a_number_is_incorrect() -> None:
    def broken(*arguments: Any) -> torch.Tensor:
        return reference_operators().swiglu(*arguments) * float("nan")

    outcome = measured(workload("swiglu"), changes={"swiglu": broken})
    assert outcome.status == Status.INCORRECT
    assert "NaN" in outcome.reasons[0]


def test_a_selection_of_other_keys_is_incorrect() -> None:
    def shifted(scores: torch.Tensor, count: int) -> torch.Tensor:
        return reference_operators().select_topk(scores, count).roll(1, -1)

    assert measured(workload("select_topk"), changes={"select_topk": shifted}).status == Status.INCORRECT


def test_an_fp8_operator_that_drops_a_scale_is_incorrect() -> None:
    def unscaled(x: Any, x_scales: Any, weight: Any, weight_scales: Any, dtype: Any) -> torch.Tensor:
        return reference_operators().fp8_gemm(x, torch.ones_like(x_scales), weight, weight_scales, dtype)

    outcome = measured(workload("fp8_gemm"), changes={"fp8_gemm": unscaled})
    assert outcome.status == Status.INCORRECT
    assert "quantised inputs" in outcome.reasons[0]


def test_a_weight_that_the_model_has_not_is_bad_input() -> None:
    for weight in (None, "v_proj"):
        with pytest.raises(UsageError, match="need a weight"):
            measured(workload("linear", weight=weight))
    assert all(OpShape(V32, 1, 1, 1, weight).matrix() for weight in WEIGHTS)


def test_the_pairs_of_causal_attention_are_counted() -> None:
    for tokens, keys in ((1, 9), (4, 9), (9, 9)):
        shape = OpShape(CONFIG, 2, tokens, keys)
        seen = int(shape.span.visible("cpu").sum())
        heads, width = CONFIG.num_attention_heads, CONFIG.qk_head_dim + CONFIG.v_head_dim
        assert work_of("mha_attention", shape, 2, "cpu").flops == 2 * seen * heads * width


def test_work_of_known_shapes() -> None:
    """By hand: V3.2's MQA decode over 4,096 keys, and its gate projection."""
    decode = work_of("mqa_attention", OpShape(V32, 1, 1, 4096), 2, "cpu")
    assert decode.flops == 2 * 4096 * 128 * (576 + 512)
    assert decode.bytes == 2 * (4096 * 576 + 128 * (576 + 512))
    packed = work_of("fp8_mqa_attention", OpShape(V32, 1, 1, 4096), 2, "cpu")
    assert decode.bytes - packed.bytes == 4096 * (1152 - 656)
    sparse = work_of("mqa_sparse_attention", OpShape(V32, 1, 1, 131072), 2, "cpu")
    assert sparse.flops == 2 * 2048 * 128 * (576 + 512)
    gate = work_of("linear", OpShape(V32, 1, 64, 64, "gate_proj"), 2, "cpu")
    assert gate.flops == 2 * 64 * 18432 * 7168


def test_selections_are_distinct_visible_and_ascending() -> None:
    shape = OpShape(CONFIG, 1, 40, 40)
    for row, chosen in enumerate(Draw(0, "cpu").selection(shape.span, 16)[0].tolist()):
        kept = [key for key in chosen if key >= 0]
        assert kept == sorted(set(kept))
        assert len(kept) == min(16, row + 1)
        assert all(key <= row for key in kept)


def test_ceilings_are_measured_once() -> None:
    class Counting(CpuOpClock):
        calls = 0

        def warm(self, call: Any) -> float:
            self.calls += 1
            return super().warm(call)

    clock = Counting()
    ceilings = Ceilings("cpu", clock)
    first = ceilings.bandwidth()
    assert ceilings.bandwidth() == first > 0
    assert ceilings.flops("", torch.float32) == ceilings.flops("", torch.float32)
    assert ceilings.flops("fp8", torch.bfloat16) is None
    assert clock.calls == 2 * 9
    assert ceilings.facts().keys() == {"copy_gbps", "float32_tflops"}
