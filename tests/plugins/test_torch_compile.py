"""The reference's formulas as torch.compile traces them, without making machine code; `checked_apart` says why."""

from __future__ import annotations

import pytest
import torch
from harness_plugins import torch_compiled

from harness.check import operator_calls
from harness.check.operator_calls import CallsOfSlot
from harness.check.operator_checks import check_slot
from harness.check.verdict import FaultError
from harness.contract import MachineFacts, Query
from harness.contract.operators import Operators, reference_operators
from harness.contract.registry import Registry
from harness.contract.span import Span
from harness.model.presets import PRESETS

SLOTS = ("rms_norm", "add_rms_norm", "rotary", "swiglu", "mha_attention", "mqa_attention", "mqa_sparse_attention",
         "index_scores")  # fmt: skip


@pytest.fixture(scope="module")
def traced() -> Operators:
    torch.compiler.reset()
    return torch_compiled.operators(backend="eager")


@pytest.mark.parametrize("slot", SLOTS)
def test_a_compiled_slot_equals_the_reference(slot: str, traced: Operators) -> None:
    calls: CallsOfSlot = getattr(operator_calls, slot)
    with torch.inference_mode():
        check_slot(calls, traced, reference_operators(), "fp32", "cpu")


def test_lengths_are_not_compiled_in(traced: Operators) -> None:
    """A decode step sees another length every time; compiling for each would never end."""
    counted = torch.compiler.reset
    counted()
    fresh = torch_compiled.operators(backend="eager")
    from torch._dynamo.utils import counters

    counters.clear()
    with torch.inference_mode():
        for end in range(20, 32):
            rows, q = torch.randn(2, end, 20), torch.randn(2, 1, 3, 20)
            fresh.mqa_attention(q, rows, Span((end - 1,) * 2, (end,) * 2, 1), 0.3, 16)
    assert counters["stats"]["unique_graphs"] <= 2


def test_a_wrong_formula_is_found(traced: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_compiled, "_visible", lambda positions, ends, keys: torch.ones(
        *positions.shape, keys, dtype=torch.bool))  # fmt: skip
    broken = torch_compiled.operators(backend="eager")
    with pytest.raises(FaultError), torch.inference_mode():
        check_slot(operator_calls.mqa_attention, broken, reference_operators(), "fp32", "cpu")


def test_records_say_what_is_compiled(traced: Operators) -> None:
    resolved = traced.resolved()
    assert resolved["rms_norm"] == "harness_plugins.torch_compiled.compiled.rms_norm"
    assert resolved["grouped_experts"].startswith("harness_plugins.eager_experts")


def test_every_reason_against_it_is_given() -> None:
    registry = Registry(entry_points=False)
    variant = registry.variant({"engine": "native", "kernels": "torch_compile"})
    facts = MachineFacts("Darwin", "arm64", "cpu", 1, 2**33, "cuda", compute_capability=(6, 1))
    reasons = registry.option("kernels", "torch_compile").unsupported(Query(variant, PRESETS["tiny-v32"], facts))
    assert len(reasons) == 3
    assert "Linux" in reasons[0]
    assert "triton" in reasons[1]
    assert "6.1" in reasons[2]
