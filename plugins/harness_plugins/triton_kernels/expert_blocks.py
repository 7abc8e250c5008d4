"""Tokens sorted by expert: which rows every block of a grouped product computes, found without waiting for the device.

Row m of A experts per token gives A slots, m * A + a. The slots of an expert stand together, in order, and are padded
to whole blocks, so that a block has one expert. How many blocks there are only the device knows: the arrays, and the
grid over them, are as large as any routing of these shapes could need, and blocks that are left over say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.launch import Capability, interpreted

TILE = 4096
"""Slots that a program looks at in one step; a row of V3 tokens has 8."""

WARPS = 8


@dataclass(frozen=True)
class ExpertBlocks:
    """P rows in p blocks of `size`."""

    slots_P: Tensor
    """int32: the slot m * A + a that a row computes, -1 for padding; not set in blocks without an expert."""
    experts_p: Tensor
    """int32: every block's expert, -1 for those left over."""
    size: int
    """Rows of a block."""

    @property
    def blocks(self) -> int:
        """How many blocks there are, those left over included."""
        return self.experts_p.shape[0]


def expert_blocks(experts_MA: Tensor, experts: int, size: int) -> ExpertBlocks:
    """Sort slots by expert. experts_MA int64 [M, A] within 0 .. experts - 1, M > 0; `size` a power of two."""
    slots = experts_MA.numel()
    flat = experts_MA.reshape(-1)
    blocks = most_blocks(slots, experts, size)
    counts_E = flat.new_empty(experts, dtype=torch.int32)
    slots_P = flat.new_empty(blocks * size, dtype=torch.int32)
    experts_p = flat.new_empty(blocks, dtype=torch.int32)
    tile = min(TILE, triton.next_power_of_2(slots)) if interpreted() else TILE
    _count[(experts,)](flat, counts_E, slots, TILE=tile, num_warps=WARPS)
    _sort[(experts,)](
        flat,
        counts_E,
        slots_P,
        experts_p,
        slots,
        blocks,
        EXPERTS=experts,
        EXPERTS_WIDE=triton.next_power_of_2(experts),
        SIZE=size,
        TILE=tile,
        num_warps=WARPS,
    )
    return ExpertBlocks(slots_P, experts_p, size)


def most_blocks(slots: int, experts: int, size: int) -> int:
    """As many blocks as `slots` slots can need: every expert that is hit begins one."""
    hit = min(experts, slots)
    return hit + (slots - hit) // size


def builds(capability: Capability) -> Sequence[KernelBuild]:
    """The sorting kernels for V3's 256 experts and every size of block that the grouped products take."""
    pointers = {"experts_ptr": "*i64", "counts_ptr": "*i32"}
    count = KernelBuild(
        name="expert_count/e256",
        operator="grouped_experts",
        kernel=_count,
        signature=pointers | {"slots": "i32"},
        constants={"TILE": TILE},
        num_warps=WARPS,
        divisible_by_16=tuple(pointers),
    )
    pointers |= {"slots_ptr": "*i32", "owners_ptr": "*i32"}
    sorts = [
        KernelBuild(
            name=f"expert_sort/e256/rows{size}",
            operator="grouped_experts",
            kernel=_sort,
            signature=pointers | {"slots": "i32", "blocks": "i32"},
            constants={"EXPERTS": 256, "EXPERTS_WIDE": 256, "SIZE": size, "TILE": TILE},
            num_warps=WARPS,
            divisible_by_16=tuple(pointers),
        )
        for size in (16, 32, 64, 128)
    ]
    return [count, *sorts]


@triton.jit(do_not_specialize=["slots"])
def _count(experts_ptr, counts_ptr, slots, TILE: tl.constexpr):
    """Slots of every expert; one program per expert."""
    expert = tl.program_id(0)
    count = 0
    for first in range(0, slots, TILE):
        at = first + tl.arange(0, TILE)
        mine = tl.load(experts_ptr + at, mask=at < slots, other=-1) == expert
        count += tl.sum(mine.to(tl.int32), 0)
    tl.store(counts_ptr + expert, count)


@triton.jit(do_not_specialize=["slots", "blocks"])
def _sort(
    experts_ptr,
    counts_ptr,
    slots_ptr,
    owners_ptr,
    slots,
    blocks,
    EXPERTS: tl.constexpr,
    EXPERTS_WIDE: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program writes the blocks of one expert; the last one also says which blocks are left over."""
    expert = tl.program_id(0)
    all_experts = tl.arange(0, EXPERTS_WIDE)
    all_counts = tl.load(counts_ptr + all_experts, mask=all_experts < EXPERTS, other=0)
    all_blocks = (all_counts + SIZE - 1) // SIZE
    first_block = tl.sum(tl.where(all_experts < expert, all_blocks, 0), 0)
    end_block = first_block + tl.sum(tl.where(all_experts == expert, all_blocks, 0), 0)
    steps = tl.arange(0, TILE)
    for block in range(first_block, end_block, TILE):
        tl.store(owners_ptr + block + steps, expert, mask=block + steps < end_block)
    if expert == EXPERTS - 1:
        for block in range(end_block, blocks, TILE):
            tl.store(owners_ptr + block + steps, -1, mask=block + steps < blocks)

    written = first_block * SIZE
    for first in range(0, slots, TILE):
        at = first + steps
        mine = tl.load(experts_ptr + at, mask=at < slots, other=-1) == expert
        place = tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(slots_ptr + written + place, at, mask=mine)
        written += tl.sum(mine.to(tl.int32), 0)
    padding = written + tl.arange(0, SIZE)
    tl.store(slots_ptr + padding, -1, mask=padding < end_block * SIZE)
