"""Attention over selected latent rows: gathers them by index and touches no others."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
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
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, multiprocessors
from harness_plugins.triton_kernels.merge_splits import merge_splits


@triton.jit(do_not_specialize=["tokens", "count", "always"])
def _attend_selected(
    q_ptr,
    rows_ptr,
    selected_ptr,
    out_ptr,
    lse_ptr,
    tokens,
    count,
    q_b,
    q_t,
    q_h,
    rows_b,
    selected_b,
    selected_t,
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
    """QUERIES heads of one token over one part of its `count` selected rows; ROW is the stride of latent rows."""
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

    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, BLOCK_LATENT], tl.float32)
    keys = tl.arange(0, KEYS)
    rows_b_ptr = rows_ptr + b * rows_b
    selected_t_ptr = selected_ptr + b * selected_b + t * selected_t
    for at in range(first, last, KEYS):
        s = tl.load(selected_t_ptr + at + keys, at + keys < last, other=-1)
        there = s >= 0
        places = rows_b_ptr + (s.to(tl.int64) * ROW)[:, None]
        latent = tl.load(places + c[None, :], inside(there[:, None], c, LATENT, BLOCK_LATENT), other=0.0)
        rope = tl.load(places + LATENT + r[None, :], inside(there[:, None], r, ROPE, BLOCK_ROPE), other=0.0)
        seen = real[:, None] & there[None, :]
        best, total, mixed = attend_block(q_latent, q_rope, latent, rope, seen, best, total, mixed, scale, always, WIDE)
    store_result(out_ptr, lse_ptr, row, c, real, best, total, mixed, LATENT, BLOCK_LATENT, SPLIT)


def mqa_sparse_attention(
    q_BTHL: Tensor, rows_BSL: Tensor, selected_BTK: Tensor, scale: float, value_width: int
) -> Tensor:
    """See `MqaSparseAttention`: q [B, T, H, L], rows [B, S, L], selected [B, T, K], -1 = none -> [B, T, H, C]."""
    batch, tokens, heads, width = q_BTHL.shape
    out = q_BTHL.new_empty(batch, tokens, heads, value_width)
    if not out.numel():
        return out
    count = selected_BTK.shape[-1]
    blocks = latent_blocks(q_BTHL.dtype, capability(q_BTHL))
    programs = batch * tokens * triton.cdiv(heads, blocks.queries)
    splits = split_count(programs, count, blocks.keys, multiprocessors(q_BTHL.device))
    parts, lse = (out, out) if splits == 1 else parts_of(out, splits)
    _attend_selected[(programs, splits)](
        q_BTHL,
        rows_BSL,
        selected_BTK,
        parts,
        lse,
        tokens,
        count,
        *q_BTHL.stride()[:3],
        rows_BSL.stride(0),
        *selected_BTK.stride()[:2],
        scale * LOG2_E,
        1,
        ROW=rows_BSL.stride(1),
        num_warps=blocks.warps,
        num_stages=blocks.gather_stages,
        **constants(heads, value_width, width - value_width, blocks, splits > 1, q_BTHL.dtype),
    )
    if splits > 1:
        merge_splits(parts, lse, out)
    return out


def builds(capability: Capability) -> list[KernelBuild]:
    """V3.2's latents: 128 heads, and the 16 of one rank of eight, whole and split; indices as `select_topk` gives."""
    return [
        _build(capability, dtype, name, heads, split)
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
        for heads in (128, 16)
        for split in (False, True)
    ]


def _build(capability: Capability, dtype: torch.dtype, name: str, heads: int, split: bool) -> KernelBuild:
    blocks = latent_blocks(dtype, capability)
    pointers = {"q_ptr": POINTERS[dtype], "rows_ptr": POINTERS[dtype], "selected_ptr": "*i64"}
    results = {"out_ptr": "*fp32" if split else POINTERS[dtype], "lse_ptr": "*fp32" if split else POINTERS[dtype]}
    strides = ("q_b", "q_t", "q_h", "rows_b", "selected_b", "selected_t")
    return KernelBuild(
        name=f"mqa_sparse_attention/{name}/h{heads}{'/split' if split else ''}",
        operator="mqa_sparse_attention",
        kernel=_attend_selected,
        signature={
            **pointers,
            **results,
            **dict.fromkeys(("tokens", "count", *strides, "always"), "i32"),
            "scale": "fp32",
        },
        constants={"ROW": 576, **constants(heads, 512, 64, blocks, split, dtype)},
        num_warps=blocks.warps,
        num_stages=blocks.gather_stages,
        divisible_by_16=(*pointers, *results, *strides),
        matrix_product=dtype != torch.float32,  # FP32 products are exact: no matrix instructions have them
    )
