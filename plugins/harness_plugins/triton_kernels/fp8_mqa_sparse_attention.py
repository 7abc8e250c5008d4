"""Attention over selected packed FP8 rows: gathered by index, made BF16 in registers, no other row touched."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.latent_blocks import (
    LOG2_E,
    attend_block,
    inside,
    parts_of,
    split_count,
    store_result,
)
from harness_plugins.triton_kernels.launch import Capability, capability, multiprocessors, rounded
from harness_plugins.triton_kernels.merge_splits import merge_splits
from harness_plugins.triton_kernels.packed_blocks import attention_constants, packed_blocks
from harness_plugins.triton_kernels.packed_rows import FIELDS, V3, latent_rows, load_latents


@triton.jit(do_not_specialize=["tokens", "count", "sequence", "always"])
def _attend_selected(
    q_ptr,
    codes_ptr,
    scales_ptr,
    rope_ptr,
    selected_ptr,
    out_ptr,
    lse_ptr,
    tokens,
    count,
    sequence,
    q_b,
    q_t,
    q_h,
    selected_b,
    selected_t,
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
    """QUERIES heads of one token over one part of its `count` selected rows."""
    groups: tl.constexpr = (HEADS + QUERIES - 1) // QUERIES
    token = tl.program_id(0) // groups
    h = tl.program_id(0) % groups * QUERIES + tl.arange(0, QUERIES)
    b, t = (token // tokens).to(tl.int64), (token % tokens).to(tl.int64)
    real = h < HEADS
    first, last = 0, count
    row = token.to(tl.int64) * HEADS + h
    if SPLIT:
        length = tl.cdiv(tl.cdiv(count, KEYS), tl.num_programs(1)) * KEYS
        first = tl.program_id(1) * length
        last = tl.minimum(count, first + length)
        row += tl.program_id(1).to(tl.int64) * (tl.num_programs(0) // groups) * HEADS

    c, r = tl.arange(0, BLOCK_LATENT), tl.arange(0, BLOCK_ROPE)
    q_row = q_ptr + b * q_b + t * q_t + h[:, None] * q_h
    q_latent = tl.load(q_row + c[None, :], inside(real[:, None], c, LATENT, BLOCK_LATENT), other=0.0)
    q_rope = tl.load(q_row + LATENT + r[None, :], inside(real[:, None], r, ROPE, BLOCK_ROPE), other=0.0)
    dtype = q_ptr.dtype.element_ty

    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, BLOCK_LATENT], tl.float32)
    keys = tl.arange(0, KEYS)
    selected_t_ptr = selected_ptr + b * selected_b + t * selected_t
    for at in range(first, last, KEYS):
        s = tl.load(selected_t_ptr + at + keys, at + keys < last, other=-1)
        there = s >= 0
        packed = b * sequence + s
        codes_at, scales_at = codes_ptr + packed * ROW, scales_ptr + packed * (ROW // 4)
        latent = load_latents(codes_at, scales_at, there, dtype, LATENT, BLOCK_LATENT, GROUP, UNITS)
        rope_at = rope_ptr + (packed * (ROW // 2))[:, None] + r[None, :]
        rope = tl.load(rope_at, inside(there[:, None], r, ROPE, BLOCK_ROPE), other=0.0)
        rope = rounded(rope.to(tl.float32), dtype)
        seen = real[:, None] & there[None, :]
        best, total, mixed = attend_block(q_latent, q_rope, latent, rope, seen, best, total, mixed, scale, always, WIDE)
    store_result(out_ptr, lse_ptr, row, c, real, best, total, mixed, LATENT, BLOCK_LATENT, SPLIT)


def fp8_mqa_sparse_attention(
    q_BTHL: Tensor, packed_BSP: Tensor, selected_BTK: Tensor, scale: float, value_width: int
) -> Tensor:
    """See `MqaSparseAttention`, over rows as `PackLatents` packs them: q [B, T, H, L], uint8 [B, S, P], selected
    [B, T, K], -1 = none -> [B, T, H, C].
    """
    batch, tokens, heads, width = q_BTHL.shape
    out = q_BTHL.new_empty(batch, tokens, heads, value_width)
    if not out.numel():
        return out
    target, count = capability(q_BTHL), selected_BTK.shape[-1]
    blocks = packed_blocks(q_BTHL.dtype, target)
    views = latent_rows(packed_BSP, value_width, width - value_width)
    programs = batch * tokens * triton.cdiv(heads, blocks.queries)
    splits = split_count(programs, count, blocks.keys, multiprocessors(q_BTHL.device))
    parts, lse = (out, out) if splits == 1 else parts_of(out, splits)
    _attend_selected[(programs, splits)](
        q_BTHL,
        *views.fields,
        selected_BTK,
        parts,
        lse,
        tokens,
        count,
        views.sequence,
        *q_BTHL.stride()[:3],
        *selected_BTK.stride()[:2],
        scale * LOG2_E,
        1,
        **attention_constants(views.layout, heads, blocks, splits > 1, q_BTHL.dtype, target),
        num_warps=blocks.warps,
        num_stages=blocks.gather_stages,
    )
    if splits > 1:
        merge_splits(parts, lse, out)
    return out


def builds(capability: Capability) -> list[KernelBuild]:
    """V3.2's rows: 128 heads, and the 16 of one rank of eight, whole and split; indices as `select_topk` gives."""
    return [_build(capability, heads, split) for heads in (128, 16) for split in (False, True)]


def _build(capability: Capability, heads: int, split: bool) -> KernelBuild:
    blocks = packed_blocks(torch.bfloat16, capability)
    result = "*fp32" if split else "*bf16"
    pointers = {"q_ptr": "*bf16", **FIELDS, "selected_ptr": "*i64", "out_ptr": result, "lse_ptr": result}
    strides = ("q_b", "q_t", "q_h", "selected_b", "selected_t")
    return KernelBuild(
        name=f"fp8_mqa_sparse_attention/h{heads}{'/split' if split else ''}",
        operator="fp8_mqa_sparse_attention",
        kernel=_attend_selected,
        signature={
            **pointers,
            **dict.fromkeys(("tokens", "count", "sequence", *strides, "always"), "i32"),
            "scale": "fp32",
        },
        constants=attention_constants(V3, heads, blocks, split, torch.bfloat16, capability),
        num_warps=blocks.warps,
        num_stages=blocks.gather_stages,
        divisible_by_16=(*pointers, *strides),
        matrix_product=True,
    )
