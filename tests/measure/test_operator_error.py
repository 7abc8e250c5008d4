"""Errors of FP8 operators: the ladder holds for the reference, and a fault shows."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.contract.fp8_tensors import calc_diff
from harness.contract.operators import Operators, reference_operators
from harness.contract.span import Span
from harness.measure.operator_error import RECIPES, operator_error, selection_overlap

OPS = reference_operators()
SPAN = Span((20, 0), (24, 4), 4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_of(slot: str) -> tuple[Any, ...]:
    rows = (normal(2, 4, 8, 168), normal(2, 24, 168, seed=1))
    selected = torch.arange(6).repeat(2, 4, 1).clamp(max=3)
    return {
        "fp8_gemm": (normal(32, 640), normal(200, 640, seed=1), False),
        "fp8_grouped_experts": (
            normal(16, 256),
            torch.arange(32).view(16, 2) % 4,
            normal(16, 2).abs(),
            normal(4, 2 * 72, 256, seed=2) / 16,
            normal(4, 256, 72, seed=3) / 8,
            True,
        ),
        "fp8_index_scores": (normal(2, 4, 32, 64), normal(2, 4, 32, seed=1).abs(), normal(2, 24, 64, seed=2), SPAN),
        "fp8_mqa_attention": (*rows, SPAN, 0.1, 160),
        "fp8_mqa_sparse_attention": (*rows, selected, 0.1, 160),
    }[slot]


@pytest.mark.parametrize("slot", RECIPES)
def test_the_reference_keeps_the_fp8_ladder(slot: str) -> None:
    error = operator_error(OPS, OPS, slot, inputs_of(slot))
    experts = slot == "fp8_grouped_experts"
    # Experts are three products, two of them multiplied with each other; what BF16 rounds between them, E4M3 rounds on.
    assert error.exact_diff <= (1e-4 if experts else 1e-5)
    assert error.diff <= (3e-3 if experts else 1e-3)
    assert 2 < error.ratio < 100


def replaced(slot: str, function: Any) -> Operators:
    changes: dict[str, Any] = {slot: function}
    return dataclasses.replace(OPS, **changes)


@pytest.mark.parametrize("slot", ["fp8_gemm", "fp8_index_scores"])
def test_a_wrong_kernel_shows_in_what_it_added(slot: str) -> None:
    def wrong(*arguments: Any) -> Tensor:
        return getattr(OPS, slot)(*arguments) * 1.01

    error = operator_error(replaced(slot, wrong), OPS, slot, inputs_of(slot))
    assert error.exact_diff > 1e-5


def test_a_set_without_fused_slots_is_run_over_unpacked_rows() -> None:
    bare = dataclasses.replace(OPS, fused={})
    for slot in ("fp8_mqa_attention", "fp8_mqa_sparse_attention"):
        assert operator_error(bare, OPS, slot, inputs_of(slot)) == operator_error(OPS, OPS, slot, inputs_of(slot))


def test_the_overlap_counts_keys() -> None:
    true = torch.tensor(
        [[[5.0, 4, 3, 2, 1, -torch.inf], [5, -torch.inf, -torch.inf, -torch.inf, -torch.inf, -torch.inf]]]
    )
    given = torch.tensor(
        [[[5.0, 1, 2, 3, 4, -torch.inf], [1, -torch.inf, -torch.inf, -torch.inf, -torch.inf, -torch.inf]]]
    )
    assert selection_overlap(OPS, true, true, 3) == 1
    assert selection_overlap(OPS, given, true, 3) == pytest.approx(2 / 4)  # 1 of 3 in the first row, 1 of 1
    error = operator_error(OPS, OPS, "fp8_index_scores", inputs_of("fp8_index_scores"), select=4)
    assert error.overlap is not None
    assert 0.7 < error.overlap <= 1


def test_calc_diff_is_half_the_squared_relative_error() -> None:
    x = normal(10_000)
    assert calc_diff(x + 0.01 * normal(10_000, seed=1), x) == pytest.approx(0.5e-4, rel=0.05)
    assert calc_diff(x, x) == pytest.approx(0, abs=1e-15)
