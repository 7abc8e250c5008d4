"""Attention straight from packed FP8 rows: latents become BF16 in registers, on their way from memory to the product.

The same walk over keys as `mqa_attention.py`, with 656 instead of 1,152 bytes per key at V3's shape.
"""

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
    inside,
    parts_of,
    split_count,
    store_result,
)
from harness_plugins.triton_kernels.launch import (
    Capability,
    capability,
    multiprocessors,
    rounded,
    span_bounds,
)
from harness_plugins.triton_kernels.merge_splits import merge_splits
from harness_plugins.triton_kernels.packed_blocks import attention_constants, packed_blocks
from harness_plugins.triton_kernels.packed_rows import FIELDS, V3, latent_rows, load_latents


@triton.jit(do_not_specialize=["batch", "tokens", "sequence", "always"])
def _attend(
    q_ptr,
    codes_ptr,
    scales_ptr,
    rope_ptr,
    bounds_ptr,
    out_ptr,
    lse_ptr,
    batch,
    tokens,
    sequence,
    q_b,
    q_t,
    q_h,
    scale,
    always,
    HEADS: tl.constexpr,
    ROW: tl.constexpr,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    BLOCK_ROPE: tl.constexpr,
    GROUP: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDE: tl.constexpr,
    UNITS: tl.constexpr,
):
    """QUERIES rows of T x H of one sequence over one part of its keys; the last rows, with the most keys, first."""
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
    dtype = q_ptr.dtype.element_ty

    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, BLOCK_LATENT], tl.float32)
    # Keys are counted from the part's first one, and a row's mask is one number: both save registers.
    keys, count = tl.arange(0, KEYS), last - first
    newest = tl.minimum(start + t - first, count - 1)
    part = b.to(tl.int64) * sequence + first
    for at in range(0, count, KEYS):
        s = at + keys
        there = s < count
        packed = part + s
        codes_at, scales_at = codes_ptr + packed * ROW, scales_ptr + packed * (ROW // 4)
        latent = load_latents(codes_at, scales_at, there, dtype, LATENT, BLOCK_LATENT, GROUP, UNITS)
        rope_at = rope_ptr + (packed * (ROW // 2))[:, None] + r[None, :]
        rope = tl.load(rope_at, inside(there[:, None], r, ROPE, BLOCK_ROPE), other=0.0)
        rope = rounded(rope.to(tl.float32), dtype)
        seen = s[None, :] <= newest[:, None]
        best, total, mixed = attend_block(q_latent, q_rope, latent, rope, seen, best, total, mixed, scale, always, WIDE)
    store_result(out_ptr, lse_ptr, row, c, real, best, total, mixed, LATENT, BLOCK_LATENT, SPLIT)


def fp8_mqa_attention(q_BTHL: Tensor, packed_BSP: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
    """See `MqaAttention`, over rows as `PackLatents` packs them: q [B, T, H, L], uint8 [B, S, P] -> [B, T, H, C]."""
    batch, tokens, heads, width = q_BTHL.shape
    out = q_BTHL.new_empty(batch, tokens, heads, value_width)
    if not out.numel():
        return out
    target = capability(q_BTHL)
    blocks = packed_blocks(q_BTHL.dtype, target)
    views = latent_rows(packed_BSP, value_width, width - value_width)
    programs = triton.cdiv(tokens * heads, blocks.queries)
    splits = split_count(programs * batch, span.end, blocks.keys, multiprocessors(q_BTHL.device))
    parts, lse = (out, out) if splits == 1 else parts_of(out, splits)
    _attend[(programs, batch, splits)](
        q_BTHL,
        *views.fields,
        span_bounds(span, q_BTHL.device),
        parts,
        lse,
        batch,
        tokens,
        views.sequence,
        *q_BTHL.stride()[:3],
        scale * LOG2_E,
        1,
        **attention_constants(views.layout, heads, blocks, splits > 1, q_BTHL.dtype, target),
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    if splits > 1:
        merge_splits(parts, lse, out)
    return out


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's rows: 128 heads, and the 16 of one rank of eight, whole and split."""
    return [_build(capability, heads, split) for heads in (128, 16) for split in (False, True)]


def _build(capability: Capability, heads: int, split: bool) -> KernelBuild:
    blocks = packed_blocks(torch.bfloat16, capability)
    result = "*fp32" if split else "*bf16"
    pointers = {"q_ptr": "*bf16", **FIELDS, "bounds_ptr": "*i32", "out_ptr": result, "lse_ptr": result}
    strides = ("q_b", "q_t", "q_h")
    return KernelBuild(
        name=f"fp8_mqa_attention/h{heads}{'/split' if split else ''}",
        operator="fp8_mqa_attention",
        kernel=_attend,
        signature={
            **pointers,
            **dict.fromkeys(("batch", "tokens", "sequence", *strides, "always"), "i32"),
            "scale": "fp32",
        },
        constants=attention_constants(V3, heads, blocks, split, torch.bfloat16, capability),
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        divisible_by_16=(*pointers, *strides),
        matrix_product=True,
    )
