"""Top-k of every row by the declared rule, exactly: a search for the smallest selected score, then a stable compaction.

A program holds a piece of a row in registers, as integers in the order of their scores, and halves the range between
the smallest and the largest of them until it knows the score of rank `count`. It counts, so nothing depends on timing.
Rows longer than a piece play a tournament: every piece hands on its best, of equals those at the lowest positions, and
what they hand on is a shorter row in the same order. A row of 128K keys takes two rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, interpreted

PIECE = 16384
"""Scores of a program where a row has several: 32 for each of 512 threads."""

LAST_PIECE = 32768
"""Scores of a program that finishes a row: two rounds suffice for 160K keys when 2,048 are selected."""

TILE = 2048
"""Scores that are compacted at one time: more of them spill registers."""

SMALL_PIECE, SMALL_TILE = 32, 16
"""The same when interpreted, so that small tests play several rounds."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def piece_of(keys: int, count: int, capability: Capability | None) -> int:
    """Scores of a program for rows of `keys`: the whole row, or a piece that at least halves what is left of it."""
    several, last = (SMALL_PIECE, SMALL_PIECE) if capability is None else (PIECE, LAST_PIECE)
    several = max(several, triton.next_power_of_2(2 * count))
    return max(SMALL_TILE, triton.next_power_of_2(keys)) if keys <= max(several, last) else several


def tile_of(piece: int) -> int:
    """Scores of a piece that are compacted at one time."""
    return min(piece, SMALL_TILE if interpreted() else TILE)


@triton.jit
def _scores(row_ptr, at, keys):
    return tl.load(row_ptr + at, mask=at < keys, other=float("-inf")).to(tl.float32)


@triton.jit
def _in_order(scores):
    """Scores as int32 that compare as they do: -0.0 is 0.0, and the bits of negative numbers run the other way."""
    bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _smallest_selected(order, count):
    """The largest value that at least `count` scores reach; the smallest above -inf where no more are above it."""
    unseen = -0x7F800001  # -inf in this order
    seen = order > unseen
    low = tl.min(tl.where(seen, order, 0x7FFFFFFF), 0)
    high = tl.where(tl.sum(seen.to(tl.int32), 0) <= count, low, tl.max(order, 0))
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # their mean, rounded up, without overflow
        reach = tl.sum((order >= middle).to(tl.int32), 0)
        low = tl.where(reach >= count, middle, low)
        high = tl.where(reach == count, middle, tl.where(reach > count, high, middle - 1))
    return low


@triton.jit(do_not_specialize=["queries", "keys", "count", "stride_b", "stride_t"])
def _best_of_piece(
    scores_ptr,
    given_ptr,
    best_ptr,
    positions_ptr,
    queries,
    keys,
    count,
    stride_b,
    stride_t,
    GIVEN: tl.constexpr,
    LAST: tl.constexpr,
    PIECE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Grid: rows, pieces. With GIVEN a score's position is in given_ptr, else it is its place in the row.

    Writes `count` positions a piece, ascending, then -1, and unless LAST their scores, then -inf.
    """
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * PIECE
    from_row = row // queries * stride_b + row % queries * stride_t
    to_row = (row * tl.num_programs(1) + tl.program_id(1)) * count
    whole = _in_order(_scores(scores_ptr + from_row, first + tl.arange(0, PIECE), keys))
    smallest = _smallest_selected(whole, count)
    room = count - tl.sum((whole > smallest).to(tl.int32), 0)  # for those that equal it

    above_before = 0
    tied_before = 0
    for tile in range(first, min(first + PIECE, keys), TILE):
        at = tile + tl.arange(0, TILE)
        scores = _scores(scores_ptr + from_row, at, keys)
        order = _in_order(scores)
        above = order > smallest
        tied = (order == smallest) & (scores > float("-inf"))
        both = above.to(tl.int32) + (tied.to(tl.int32) << 16)  # two prefix sums in one
        rank = tl.cumsum(both, 0)
        tied_rank = tied_before + (rank >> 16)
        chosen = above | (tied & (tied_rank <= room))
        slot = above_before + (rank & 0xFFFF) + tl.minimum(tied_rank, room) - 1
        positions = at
        if GIVEN:
            positions = tl.load(given_ptr + from_row + at, mask=chosen, other=-1)
        tl.store(positions_ptr + to_row + slot, positions.to(positions_ptr.dtype.element_ty), mask=chosen)
        if not LAST:
            tl.store(best_ptr + to_row + slot, scores, mask=chosen)
        counts = tl.sum(both, 0)
        above_before += counts & 0xFFFF
        tied_before += counts >> 16

    for slot in range(above_before + tl.minimum(tied_before, room), count, 64):
        empty = slot + tl.arange(0, 64)
        tl.store(positions_ptr + to_row + empty, -1, mask=empty < count)
        if not LAST:
            tl.store(best_ptr + to_row + empty, float("-inf"), mask=empty < count)


def select_topk(scores_BTS: Tensor, count: int) -> Tensor:
    """See `SelectTopk`: scores [B, T, S] -> int64 [B, T, count], ascending, then -1.

    Raises TypeError for scores wider than FP32, which would be rounded.
    """
    if scores_BTS.dtype not in DTYPES:
        raise TypeError(f"select_topk of triton orders scores of FP32 or narrower, not of {scores_BTS.dtype}")
    positions_BTS = None
    piece = piece_of(scores_BTS.shape[-1], count, capability(scores_BTS))
    while piece < scores_BTS.shape[-1]:
        scores_BTS, positions_BTS = _round(scores_BTS, positions_BTS, count, piece, last=False)
        piece = piece_of(scores_BTS.shape[-1], count, capability(scores_BTS))
    return _round(scores_BTS, positions_BTS, count, piece, last=True)[1]


def _round(
    scores_BTS: Tensor, positions_BTS: Tensor | None, count: int, piece: int, last: bool
) -> tuple[Tensor, Tensor]:
    """Scores and positions of every piece's best, [B, T, pieces * count]; no scores in the last round."""
    batch, queries, keys = scores_BTS.shape
    pieces = triton.cdiv(keys, piece)
    shape = (batch, queries, pieces * count)
    positions = scores_BTS.new_empty(shape, dtype=torch.int64 if last else torch.int32)
    best = scores_BTS if last else scores_BTS.new_empty(shape, dtype=torch.float32)
    if positions.numel():
        _best_of_piece[(batch * queries, pieces)](
            scores_BTS,
            scores_BTS if positions_BTS is None else positions_BTS,
            best,
            positions,
            queries,
            keys,
            count,
            *scores_BTS.stride()[:2],
            GIVEN=positions_BTS is not None,
            LAST=last,
            PIECE=piece,
            TILE=tile_of(piece),
            num_warps=_warps(piece),
        )
    return best, positions


def _warps(piece: int) -> int:
    """32 scores a thread, 64 in the largest piece."""
    return min(16, max(4, piece // 1024))


def builds(capability: Capability) -> Sequence[KernelBuild]:
    """Selecting V3.2's 2,048 keys: rows of 4K to 32K keys in one round, and both rounds of longer ones."""
    kinds = [("once", False, True, piece) for piece in (4096, 8192, 16384, 32768)]
    kinds += [("first", False, False, PIECE), ("second", True, True, 8192), ("second", True, True, LAST_PIECE)]
    return [_build(f"select_topk/{name}/s{piece}", given, last, piece) for name, given, last, piece in kinds]


def _build(name: str, given: bool, last: bool, piece: int) -> KernelBuild:
    scores = POINTERS[torch.float32]
    pointers = {
        "scores_ptr": scores,
        "given_ptr": "*i32" if given else scores,
        "best_ptr": scores,
        "positions_ptr": "*i64" if last else "*i32",
    }
    return KernelBuild(
        name=name,
        operator="select_topk",
        kernel=_best_of_piece,
        signature=pointers | dict.fromkeys(("queries", "keys", "count", "stride_b", "stride_t"), "i32"),
        constants={"GIVEN": given, "LAST": last, "PIECE": piece, "TILE": tile_of(piece)},
        num_warps=_warps(piece),
        divisible_by_16=tuple(pointers),
    )
