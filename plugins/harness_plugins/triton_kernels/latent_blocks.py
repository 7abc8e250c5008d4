"""What kernels over latent rows share: one step of the online softmax, block sizes, and how keys are split.

All heads of all queries share their keys, so M = T x H rows of queries meet blocks of S keys, and a block that has
been loaded as keys serves again as values: its first C columns. The step is FlashAttention's (arXiv 2307.08691,
section 3.1.1), with powers of two: `scale` includes log2(e).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness_plugins.triton_kernels.launch import Capability, is_wide, rounded

LOG2_E = math.log2(math.e)

PART_COST, MERGE_COST = 2, 4
"""What a part costs beyond its keys (queries, result), and what joining costs, in steps over a block of keys."""


@dataclass(frozen=True)
class LatentBlocks:
    """A configuration of a kernel over latent rows."""

    queries: int
    """M: query rows (heads of tokens) of a program."""
    keys: int
    """S: keys of one step."""
    warps: int
    stages: int

    @property
    def gather_stages(self) -> int:
        """One more where rows are gathered: their indices are loaded a step earlier."""
        return self.stages + 1 if self.stages > 1 else 1


INTERPRETED = LatentBlocks(16, 16, 4, 1)
WIDE = LatentBlocks(16, 16, 8, 1)
HOPPER = LatentBlocks(64, 64, 8, 2)
"""FP32 results of 64 x 512 take half the registers of 8 warps; queries and two blocks of keys take 224 of 227 KiB."""
AMPERE = LatentBlocks(16, 32, 8, 2)
"""Queries stay in registers there, so there are few; 99 KiB of shared memory are enough."""


def latent_blocks(dtype: torch.dtype, capability: Capability | None) -> LatentBlocks:
    """The configuration for inputs of `dtype` on hardware of `capability` (None: interpreted)."""
    if capability is None:
        return INTERPRETED
    if dtype == torch.float32:
        return WIDE
    return HOPPER if capability[0] in (9, 10) else AMPERE


def split_count(programs: int, keys: int, block: int, processors: int) -> int:
    """Into how many parts to split every program's keys, so that all processors have work and little is joined.

    Programs run in waves, one per processor: the count with the least waves x steps is taken.
    """
    steps = triton.cdiv(keys, block)

    def cost(parts: int) -> int:
        waves = triton.cdiv(programs * parts, processors)
        return waves * (triton.cdiv(steps, parts) + PART_COST) + (MERGE_COST if parts > 1 else 0)

    return min(range(1, max(1, min(steps, processors)) + 1), key=cost)


def constants(
    heads: int, latent: int, rope: int, blocks: LatentBlocks, split: bool, dtype: torch.dtype
) -> dict[str, Any]:
    """What both attention kernels are compiled for, but for the rows' stride: latent and rope are widths."""
    columns = {
        "LATENT": latent,
        "ROPE": rope,
        "BLOCK_LATENT": max(16, triton.next_power_of_2(latent)),
        "BLOCK_ROPE": max(16, triton.next_power_of_2(rope)),
    }
    sizes = {"HEADS": heads, "QUERIES": blocks.queries, "KEYS": blocks.keys}
    return {**sizes, **columns, "SPLIT": split, "WIDE": is_wide(dtype)}


def parts_of(out: Tensor, splits: int) -> tuple[Tensor, Tensor]:
    """Room for the results over `splits` parts of the keys, FP32 [splits, M, C], and for their log-sum-exps."""
    rows, width = out.numel() // out.shape[-1], out.shape[-1]
    parts_XMC = out.new_empty(splits, rows, width, dtype=torch.float32)
    return parts_XMC, out.new_empty(splits, rows, dtype=torch.float32)


@triton.jit
def attend_block(q_latent, q_rope, latent, rope, seen, best, total, mixed, scale, always, WIDE: tl.constexpr):
    """One step over a block of keys.

    q_latent [M, C], q_rope [M, R], latent [S, C] and rope [S, R] in one dtype, zero where not `seen` [M, S] by any
    row; best [M], total [M] and mixed [M, C] are the state, in FP32: running maximum, sum and weighted values.
    Returns the new state. `always` is 1 at run time.

    The scores are computed inside a branch, which the compiler cannot know to be always taken, because it would
    otherwise give the two products of a chain one layout: all warps along M. With 8 warps and 64 rows half of them
    would then repeat the other half's work. Cut apart, the first product is shared out over keys, and each value half
    of the second has a warp group. For the same reason both parts of the score are scaled before they are added.
    """
    if WIDE:
        q_latent, q_rope = q_latent.to(tl.float32), q_rope.to(tl.float32)
        latent, rope = latent.to(tl.float32), rope.to(tl.float32)
    weights = tl.broadcast_to(total[:, None], seen.shape).to(latent.dtype)
    shrunk = total
    if always > 0:
        scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee") * scale
        scores += tl.dot(q_rope, tl.trans(rope), input_precision="ieee") * scale
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # rows that have seen no key yet
        wide_weights = tl.exp2(scores - shift[:, None])
        shrunk = tl.exp2(best - shift)
        total = total * shrunk + tl.sum(wide_weights, 1)
        best = higher
        weights = wide_weights.to(latent.dtype)
    mixed = tl.dot(weights, latent, mixed * shrunk[:, None], input_precision="ieee")
    return best, total, mixed


@triton.jit
def inside(rows, columns, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Mask of [rows, BLOCK] values whose rows [.., 1] are there; columns are looked at only where some are too many."""
    mask = rows
    if WIDTH != BLOCK:
        mask = rows & (columns < WIDTH)[None, :]
    return mask


@triton.jit
def store_result(
    out_ptr,
    lse_ptr,
    row,
    columns,
    real,
    best,
    total,
    mixed,
    LATENT: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Write [M, C] to the rows `row` [M] (int64) of a contiguous result; with SPLIT also log2 of the softmax's sum.

    Rows that saw no key get zeros, and -inf.
    """
    total = tl.where(total > 0, total, 1.0)
    values = mixed / total[:, None]
    mask = inside(real[:, None], columns, LATENT, BLOCK_LATENT)
    at = out_ptr + row[:, None] * LATENT + columns[None, :]
    tl.store(at, rounded(values, out_ptr.dtype.element_ty), mask)
    if SPLIT:
        tl.store(lse_ptr + row, best + tl.log2(total), real)
