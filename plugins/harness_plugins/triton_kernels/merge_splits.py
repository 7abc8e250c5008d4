"""The results over parts of the keys, made one by their log-sum-exps (FlashDecoding)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.launch import POINTERS, Capability, rounded

WARPS = 4


@triton.jit(do_not_specialize=["splits", "rows"])
def _merge(parts_ptr, lse_ptr, out_ptr, splits, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One row: the sum of its parts, each weighted with its share of the softmax's sum."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    best = float("-inf")
    for split in range(0, splits):
        best = tl.maximum(best, tl.load(lse_ptr + split * rows + row))
    best = tl.where(best == float("-inf"), 0.0, best)
    total = 0.0
    mixed = tl.zeros([BLOCK], tl.float32)
    for split in range(0, splits):
        at = split * rows + row
        weight = tl.exp2(tl.load(lse_ptr + at) - best)
        total += weight
        mixed += weight * tl.load(parts_ptr + at * WIDTH + column, mask, other=0.0)
    values = mixed / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + row * WIDTH + column, rounded(values, out_ptr.dtype.element_ty), mask)


def merge_splits(parts_XMC: Tensor, lse_XM: Tensor, out: Tensor) -> None:
    """Write to `out` (contiguous, M rows of C) what X parts make together.

    parts_XMC FP32: attention over each part of the keys by itself; lse_XM FP32: log2 of its softmax's sum in powers
    of two, -inf where a row saw none of the part's keys.
    """
    splits, rows, width = parts_XMC.shape
    block = triton.next_power_of_2(width)
    _merge[(rows,)](parts_XMC, lse_XM, out, splits, rows, WIDTH=width, BLOCK=block, num_warps=WARPS, num_stages=2)


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's latents."""
    return [
        KernelBuild(
            name=f"merge_splits/{name}",
            operator="mqa_attention",
            kernel=_merge,
            signature={
                "parts_ptr": "*fp32",
                "lse_ptr": "*fp32",
                "out_ptr": POINTERS[dtype],
                "splits": "i32",
                "rows": "i32",
            },
            constants={"WIDTH": 512, "BLOCK": 512},
            num_warps=WARPS,
            num_stages=2,
            divisible_by_16=("parts_ptr", "lse_ptr", "out_ptr"),
        )
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
    ]
