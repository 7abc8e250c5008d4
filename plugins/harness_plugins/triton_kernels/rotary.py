"""Rotary position embedding of pairs in either layout; the result is in split layout."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.launch import POINTERS, Capability, rounded

ELEMENTS = 1024
"""Pairs a program rotates at most, unless one row has more."""

STRIDES = tuple(f"{tensor}_{axis}" for tensor in ("x", "cos", "sin") for axis in ("b", "t", "h"))
"""The kernel's stride arguments: of every tensor, over sequences, tokens and heads."""


@triton.jit(do_not_specialize=["rows"])
def _rotary(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    rows,
    tokens,
    heads,
    pairs,
    x_b,
    x_t,
    x_h,
    cos_b,
    cos_t,
    cos_h,
    sin_b,
    sin_t,
    sin_h,
    INTERLEAVED: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """ROWS rows of B x T x H, each of `pairs` <= PAIRS pairs. Broadcast dimensions of the tables have stride 0."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    pair = tl.arange(0, PAIRS)[None, :]
    mask = (row < rows) & (pair < pairs)
    b, t, h = row // heads // tokens, row // heads % tokens, row % heads
    if INTERLEAVED:
        first_at, second_at = 2 * pair, 2 * pair + 1
    else:
        first_at, second_at = pair, pair + pairs
    x_row = x_ptr + b * x_b + t * x_t + h * x_h
    first = tl.load(x_row + first_at, mask, other=0.0).to(tl.float32)
    second = tl.load(x_row + second_at, mask, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + b * cos_b + t * cos_t + h * cos_h + pair, mask, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + b * sin_b + t * sin_t + h * sin_h + pair, mask, other=0.0).to(tl.float32)
    out_row = out_ptr + row * (2 * pairs)
    tl.store(out_row + pair, rounded(first * cos - second * sin, out_ptr.dtype.element_ty), mask)
    tl.store(out_row + pair + pairs, rounded(second * cos + first * sin, out_ptr.dtype.element_ty), mask)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """See `Rotary`: x [..., R], cos and sin [..., R/2] that broadcast over x's rows -> [..., R]."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return out
    x_BTHR = _four_dimensional(x)
    tables = [_four_dimensional(table.expand(*x.shape[:-1], x.shape[-1] // 2)) for table in (cos, sin)]
    batch, tokens, heads, width = x_BTHR.shape
    shape = _shape(width // 2)
    strides = [stride for tensor in (x_BTHR, *tables) for stride in tensor.stride()[:3]]
    rows = batch * tokens * heads
    _rotary[(triton.cdiv(rows, shape["ROWS"]),)](
        x_BTHR,
        *tables,
        out,
        rows,
        tokens,
        heads,
        width // 2,
        *strides,
        INTERLEAVED=interleaved,
        num_warps=4,
        num_stages=1,
        **shape,
    )
    return out


def _four_dimensional(x: Tensor) -> Tensor:
    """The same rows as [B, T, H, R]: missing dimensions in front, superfluous ones joined there."""
    return x[(None,) * (4 - x.dim())] if x.dim() <= 4 else x.reshape(-1, *x.shape[-3:])


def _shape(pairs: int) -> dict[str, int]:
    block = triton.next_power_of_2(pairs)
    return {"ROWS": max(1, ELEMENTS // block), "PAIRS": block}


def builds(capability: Capability) -> list[KernelBuild]:
    """V3.2's rotations: interleaved for queries and keys, half-split in the indexer; tables of the wide dtype."""
    return [
        KernelBuild(
            name=f"rotary/{name}/{'interleaved' if interleaved else 'split'}",
            operator="rotary",
            kernel=_rotary,
            signature={
                "x_ptr": POINTERS[dtype],
                "cos_ptr": "*fp32",
                "sin_ptr": "*fp32",
                "out_ptr": POINTERS[dtype],
                **dict.fromkeys(("rows", "tokens", "heads", "pairs", *STRIDES), "i32"),
            },
            constants={"INTERLEAVED": interleaved, **_shape(32)},
            num_warps=4,
            num_stages=1,
            divisible_by_16=("x_ptr", "cos_ptr", "sin_ptr", "out_ptr", "pairs", *STRIDES),
        )
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
        for interleaved in (True, False)
    ]
