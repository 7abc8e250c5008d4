"""Attention over shared latent rows: prefill, chunks and decode with one kernel, long contexts split among programs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.span import Span
from harness_plugins.triton_kernels.latent_blocks import (
    LOG2_E,
    attend_block,
    constants,
    inside,
    latent_blocks,
    parts_of,
    split_count,
    store_result,
)
from harness_plugins.triton_kernels.launch import (
    POINTERS,
    Capability,
    capability,
    multiprocessors,
    span_bounds,
)
from harness_plugins.triton_kernels.merge_splits import merge_splits


@triton.jit(do_not_specialize=["batch", "tokens", "always"])
def _attend(
    q_ptr,
    rows_ptr,
    bounds_ptr,
    out_ptr,
    lse_ptr,
    batch,
    tokens,
    q_b,
    q_t,
    q_h,
    rows_b,
    scale,
    always,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    BLOCK_ROPE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """QUERIES rows of T x H of one sequence over one part of its keys; ROW is the stride of latent rows.

    The last rows come first: under a causal mask they have the most keys.
    """
    block, b = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    start, end = tl.load(bounds_ptr + b), tl.load(bounds_ptr + batch + b)
    m = block * QUERIES + tl.arange(0, QUERIES)
    t = m // HEADS
    real = t < tokens
    last = tl.minimum(end, start + (block * QUERIES + QUERIES - 1) // HEADS + 1)
    first = 0
    row = b.to(tl.int64) * tokens * HEADS + m
    if SPLIT:
        length = tl.cdiv(tl.cdiv(last, KEYS), tl.num_programs(2)) * KEYS
        first = tl.program_id(2) * length
        last = tl.minimum(last, first + length)
        row += tl.program_id(2).to(tl.int64) * batch * tokens * HEADS

    c, r = tl.arange(0, BLOCK_LATENT), tl.arange(0, BLOCK_ROPE)
    q_row = q_ptr + b.to(tl.int64) * q_b + t.to(tl.int64)[:, None] * q_t + (m % HEADS)[:, None] * q_h
    q_latent = tl.load(q_row + c[None, :], inside(real[:, None], c, LATENT, BLOCK_LATENT), other=0.0)
    q_rope = tl.load(q_row + LATENT + r[None, :], inside(real[:, None], r, ROPE, BLOCK_ROPE), other=0.0)

    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, BLOCK_LATENT], tl.float32)
    # Keys are counted from the part's first one, and a row's mask is one number: both save registers.
    keys, count = tl.arange(0, KEYS), last - first
    newest = tl.minimum(start + t - first, count - 1)
    part_ptr = rows_ptr + b.to(tl.int64) * rows_b + tl.cast(first, tl.int64) * ROW
    for at in range(0, count, KEYS):
        s = at + keys
        there = (s < count)[:, None]
        places = part_ptr + (s.to(tl.int64) * ROW)[:, None]
        latent = tl.load(places + c[None, :], inside(there, c, LATENT, BLOCK_LATENT), other=0.0)
        rope = tl.load(places + LATENT + r[None, :], inside(there, r, ROPE, BLOCK_ROPE), other=0.0)
        seen = s[None, :] <= newest[:, None]
        best, total, mixed = attend_block(q_latent, q_rope, latent, rope, seen, best, total, mixed, scale, always, WIDE)
    store_result(out_ptr, lse_ptr, row, c, real, best, total, mixed, LATENT, BLOCK_LATENT, SPLIT)


def mqa_attention(q_BTHL: Tensor, rows_BSL: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
    """See `MqaAttention`: q [B, T, H, L], rows [B, S, L] -> [B, T, H, C], C = value_width."""
    batch, tokens, heads, width = q_BTHL.shape
    out = q_BTHL.new_empty(batch, tokens, heads, value_width)
    if not out.numel():
        return out
    blocks = latent_blocks(q_BTHL.dtype, capability(q_BTHL))
    programs = triton.cdiv(tokens * heads, blocks.queries)
    splits = split_count(programs * batch, span.end, blocks.keys, multiprocessors(q_BTHL.device))
    parts, lse = (out, out) if splits == 1 else parts_of(out, splits)
    _attend[(programs, batch, splits)](
        q_BTHL,
        rows_BSL,
        span_bounds(span, q_BTHL.device),
        parts,
        lse,
        batch,
        tokens,
        *q_BTHL.stride()[:3],
        rows_BSL.stride(0),
        scale * LOG2_E,
        1,
        ROW=rows_BSL.stride(1),
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        **constants(heads, value_width, width - value_width, blocks, splits > 1, q_BTHL.dtype),
    )
    if splits > 1:
        merge_splits(parts, lse, out)
    return out


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's latents: 128 heads, and the 16 of one rank of eight, whole and split."""
    return [
        _build(capability, dtype, name, heads, split)
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
        for heads in (128, 16)
        for split in (False, True)
    ]


def _build(capability: Capability, dtype: torch.dtype, name: str, heads: int, split: bool) -> KernelBuild:
    blocks = latent_blocks(dtype, capability)
    pointers = {"q_ptr": POINTERS[dtype], "rows_ptr": POINTERS[dtype], "bounds_ptr": "*i32"}
    results = {"out_ptr": "*fp32" if split else POINTERS[dtype], "lse_ptr": "*fp32" if split else POINTERS[dtype]}
    strides = ("q_b", "q_t", "q_h", "rows_b")
    return KernelBuild(
        name=f"mqa_attention/{name}/h{heads}{'/split' if split else ''}",
        operator="mqa_attention",
        kernel=_attend,
        signature={
            **pointers,
            **results,
            **dict.fromkeys(("batch", "tokens", *strides, "always"), "i32"),
            "scale": "fp32",
        },
        constants={"ROW": 576, **constants(heads, 512, 64, blocks, split, dtype)},
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        divisible_by_16=(*pointers, *results, *strides),
        matrix_product=dtype != torch.float32,  # FP32 products are exact: no matrix instructions have them
    )
