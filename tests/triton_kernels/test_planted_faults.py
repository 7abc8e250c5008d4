"""Faults that kernels really have had, planted in these: each is noticed by the checks of its operator.

Four kinds: a block's mask is off by one, a scale is missing, a part of a split sum is dropped, and stale shared memory:
a tile that was loaded once is used again, or a sum is not what the step before it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from harness_plugins.triton_kernels.launch import interpreted

from harness.check.fp8_checks import FP8_CHECKS
from harness.check.operator_calls import Call, Draw
from harness.check.verdict import FaultError
from harness.contract.operators import Operators, reference_operators
from tests.triton_kernels import latents, test_grouped_experts, test_index_scores, test_mha_attention
from tests.triton_kernels.against_eager import poisoned_memory, require_equal_to_eager
from tests.triton_kernels.planting import Fault, planted

pytestmark = pytest.mark.skipif(not interpreted(), reason="these calls cross the borders of interpreted blocks")

MASK, SCALE, SPLIT, STALE = "off-by-one mask", "missing scale", "dropped part", "stale tile"

SEEN = "seen = (s[None, :] <= position[:, None])"
SEEN_OF_PART = "seen = s[None, :] <= newest[:, None]"
SCORES_OF_LATENTS = 'scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")'
SCORES_OF_HEADS = 'scores = tl.dot(q_tail, tl.trans(k_tail), scores, input_precision="ieee")'
SCALE_OF_ROWS = "safe_upper * x_scales_stride + step)"
MERGE = "mixed = tl.zeros([BLOCK], tl.float32)\n    for split in range({}, splits):"

FAULTS = [
    Fault(MASK, "mha_attention", "mha_attention", SEEN, SEEN.replace("<=", "<")),
    Fault(SCALE, "mha_attention", "mha_attention", f"{SCORES_OF_HEADS} * scale", SCORES_OF_HEADS),
    Fault(STALE, "mha_attention", "mha_attention", "v_ptr + tl.cast(at, tl.int64)", "v_ptr + tl.cast(first, tl.int64)"),
    Fault("sum not rescaled", "mha_attention", "mha_attention", "mixed * shrunk[:, None]", "mixed"),
    Fault(MASK, "mqa_attention", "mqa_attention", SEEN_OF_PART, SEEN_OF_PART.replace("<=", "<")),
    Fault(SCALE, "mqa_attention", "latent_blocks", f"{SCORES_OF_LATENTS} * scale", SCORES_OF_LATENTS),
    Fault(SPLIT, "mqa_attention", "merge_splits", MERGE.format(0), MERGE.format(1)),
    Fault("missing share", "mqa_attention", "merge_splits", "mixed += weight * tl.load(", "mixed += tl.load("),
    Fault(STALE, "mqa_attention", "mqa_attention", "part_ptr + (s.to(", "part_ptr + (keys.to("),
    Fault("sum not rescaled", "mqa_attention", "latent_blocks", "mixed * shrunk[:, None]", "mixed"),
    Fault(MASK, "mqa_sparse_attention", "mqa_sparse_attention", "there = s >= 0", "there = s > 0"),
    Fault(SCALE, "mqa_sparse_attention", "latent_blocks", f"{SCORES_OF_LATENTS} * scale", SCORES_OF_LATENTS),
    Fault(SPLIT, "mqa_sparse_attention", "merge_splits", MERGE.format(0), MERGE.format(1)),
    Fault(STALE, "mqa_sparse_attention", "mqa_sparse_attention", "selected_t_ptr + at + ", "selected_t_ptr + first + "),
    Fault(MASK, "index_scores", "index_scores", "seen = (key[:, None] <= start", "seen = (key[:, None] < start"),
    Fault(SCALE, "index_scores", "index_scores", " * weights.to(tl.float32)[None, :]", ""),
    Fault(SPLIT, "index_scores", "index_scores", "range(0, WIDTH, INNER)", "range(INNER, WIDTH, INNER)"),
    Fault(STALE, "index_scores", "index_scores", "q_rows + tl.cast(t, ", "q_rows + tl.cast(seen_from, "),
    Fault(MASK, "select_topk", "select_topk", "tied_rank <= room", "tied_rank < room"),
    Fault(SPLIT, "select_topk", "select_topk", "min(first + PIECE, keys), TILE", "min(first + TILE, keys), TILE"),
    Fault(STALE, "select_topk", "select_topk", "above_before += counts", "above_before = counts"),
    Fault(MASK, "grouped_experts", "grouped_experts", "mask=(column < HIDDEN)", "mask=(column < HIDDEN - 1)"),
    Fault(MASK, "grouped_experts", "grouped_experts", "(slot >= 0)", "(slot > 0)"),
    Fault(SCALE, "grouped_experts", "grouped_experts", "stride_m + a).to(tl.float32) *", "stride_m).to(tl.float32) *"),
    Fault(SPLIT, "grouped_experts", "grouped_experts", "range(0, HIDDEN, INNER)", "range(INNER, HIDDEN, INNER)"),
    Fault(STALE, "grouped_experts", "grouped_experts", "x = tl.load(x_at + first, mask", "x = tl.load(x_at, mask"),
    Fault(MASK, "fp8_gemm", "fp8_gemm", "mask=(column < depth)", "mask=(column < depth - 1)"),
    Fault(SCALE, "fp8_gemm", "fp8_gemm", f"{SCALE_OF_ROWS} * weight_scale", SCALE_OF_ROWS),
    Fault(SPLIT, "fp8_gemm", "fp8_gemm", "tl.static_range(SPLITS)", "tl.static_range(SPLITS - 1)"),
    Fault(STALE, "fp8_gemm", "fp8_gemm", "load_step(weight_rows, step,", "load_step(weight_rows, first,"),
    Fault(MASK, "quantise", "quantise", "(column < columns)", "(column < columns - 1)"),
    Fault(SCALE, "quantise", "e4m3", "div_rn(x, tl.broadcast_to(scale[:, None], x.shape))", "div_rn(x, x * 0 + 1)"),
]


def _select_topk() -> Iterator[Call]:
    scores = torch.randn(1, 2, 70, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    yield Call("few ties", (scores, 9))
    yield Call("many ties", (scores.round(), 9))


def _grouped_experts() -> Iterator[Call]:
    yield test_grouped_experts.call("several blocks", test_grouped_experts.routing(Draw(1), 11, 2, 3), 3)


def _only(calls: Iterator[Call], what: str) -> Iterator[Call]:
    return (call for call in calls if call.what.startswith(what))


CALLS: dict[str, Callable[[], Iterator[Call]]] = {
    "mha_attention": lambda: _only(test_mha_attention.calls("odd", None), "ragged chunk"),
    "mqa_attention": lambda: _only(latents.dense("odd"), "split decode"),
    "mqa_sparse_attention": lambda: _only(latents.sparse("odd", False), "split decode"),
    "index_scores": lambda: iter([test_index_scores.call(test_index_scores.SPANS["a chunk"], 3, 40)]),
    "select_topk": _select_topk,
    "grouped_experts": _grouped_experts,
}
"""Slot -> calls that cross the borders of its kernels' blocks; FP8 slots have checks of their own."""


def check(slot: str, candidate: Operators, device: str) -> None:
    """The check of one operator; raises FaultError with the figure that is wrong."""
    if slot in CALLS:
        require_equal_to_eager(slot, CALLS[slot](), "fp32", device, candidate)
        return
    fp8_check = next(each for each in FP8_CHECKS if each.__name__ == slot)
    with poisoned_memory():
        fp8_check(candidate, reference_operators(), device)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.id for fault in FAULTS])
def test_the_check_of_the_operator_notices(
    fault: Fault, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FaultError):
        check(fault.slot, planted(fault, tmp_path, monkeypatch), device)


@pytest.mark.parametrize("slot", dict.fromkeys(fault.slot for fault in FAULTS))
def test_the_check_accepts_a_copy_without_a_fault(
    slot: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = Fault("none", slot, "operators", 'name="triton"', 'name="copy"')
    check(slot, planted(none, tmp_path, monkeypatch), device)
