"""Scores of DSA's lightning indexer over packed FP8 keys: `index_scores.py` with products of E4M3 values.

A key's scale multiplies the finished sum; a query's goes into its head's weight.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.fp8 import index_key_bytes
from harness.contract.span import Span
from harness_plugins.triton_kernels.e4m3 import decode, has_units, operand
from harness_plugins.triton_kernels.index_scores import Config, configure
from harness_plugins.triton_kernels.launch import Capability, capability, span_bounds
from harness_plugins.triton_kernels.pack_index_keys import quantise_queries
from harness_plugins.triton_kernels.packed_rows import whole_rows


def packed_config(queries: int, heads: int, width: int, capability: Capability | None) -> tuple[Config, int, int]:
    """Block sizes, warps and stages: those of BF16 keys; FP8 products are at least 32 deep.

    Where operands are decoded in registers, fewer are on their way, and more warps share them.
    """
    config, warps, stages = configure(queries, heads, width, False, capability)
    if capability is not None and not has_units(capability):
        warps, stages = 8, min(stages, 2)
    elif capability is not None and capability[0] == 10 and queries > 1:
        warps = 8
    return replace(config, INNER=max(32, config.INNER)), warps, stages


@triton.jit(do_not_specialize=["queries", "keys", "sequence"])
def _index_scores(
    q_ptr,
    q_scales_ptr,
    weights_ptr,
    k_ptr,
    k_scales_ptr,
    bounds_ptr,
    scores_ptr,
    batch,
    queries,
    keys,
    sequence,
    weights_stride_b,
    weights_stride_t,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    HEADS_WIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    QUERIES: tl.constexpr,
    TOGETHER: tl.constexpr,
    INNER: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Grid: blocks of keys, blocks of queries, sequences. Queries and their scales are contiguous."""
    b = tl.program_id(2).to(tl.int64)
    start = tl.load(bounds_ptr + b)
    end = tl.load(bounds_ptr + batch + b)
    first_key = tl.program_id(0) * KEYS
    first = tl.program_id(1) * QUERIES
    last = min(first + QUERIES, queries)
    seen_from = min(max(first_key - start, first), last) if first_key < end else last
    seen_from = first + (seen_from - first) // TOGETHER * TOGETHER

    key = first_key + tl.arange(0, KEYS)
    columns = tl.arange(0, TOGETHER * HEADS_WIDE)
    t_of_column, head = columns // HEADS_WIDE, columns % HEADS_WIDE
    inner = tl.arange(0, INNER)
    place = b * queries * HEADS + t_of_column * HEADS + head
    q_rows = q_ptr + (place * WIDTH)[:, None] + inner[None, :]
    weights_at = weights_ptr + b * weights_stride_b + t_of_column.to(tl.int64) * weights_stride_t + head
    t_of_row = tl.arange(0, TOGETHER)
    scores_at = scores_ptr + (b * queries + t_of_row)[None, :] * keys + key[:, None]

    for t in range(first, seen_from, TOGETHER):
        unseen = tl.full((KEYS, TOGETHER), float("-inf"), tl.float32)
        inside = (key[:, None] < keys) & (t + t_of_row < last)[None, :]
        tl.store(scores_at + tl.cast(t, tl.int64) * keys, unseen, mask=inside)

    k_row = b * sequence + key
    k_at = k_ptr + (k_row * ROW)[:, None] + inner[None, :]
    k = tl.load(k_at, mask=(key < end)[:, None] & (inner < WIDTH)[None, :], other=0.0)
    k_scale = tl.load(k_scales_ptr + k_row * (ROW // 4), mask=key < end, other=0.0)
    if not UNITS:
        k = decode(k, UNITS)
    for t in range(seen_from, last, TOGETHER):
        real = (t + t_of_column < last) & (head < HEADS)
        now = tl.cast(t, tl.int64)
        q = tl.load(q_rows + now * (HEADS * WIDTH), mask=real[:, None] & (inner < WIDTH)[None, :], other=0.0)
        if not UNITS:
            q = decode(q, UNITS)
        per_head = tl.dot(k, tl.trans(q))
        q_scale = tl.load(q_scales_ptr + place + now * HEADS, mask=real, other=0.0)
        weights = tl.load(weights_at + now * weights_stride_t, mask=real, other=0.0).to(tl.float32) * q_scale
        weighted = tl.maximum(per_head, 0.0) * weights[None, :]
        scores = tl.sum(tl.reshape(weighted, (KEYS, TOGETHER, HEADS_WIDE)), 2) * k_scale[:, None]
        seen = (key[:, None] <= start + t + t_of_row[None, :]) & (key < end)[:, None]
        inside = (key[:, None] < keys) & (t + t_of_row < last)[None, :]
        tl.store(scores_at + now * keys, tl.where(seen, scores, float("-inf")), mask=inside)


def fp8_index_scores(q_BTGI: Tensor, weights_BTG: Tensor, packed_BSP: Tensor, span: Span) -> Tensor:
    """See `Fp8IndexScores`: q [B, T, G, I], weights [B, T, G], uint8 [B, S, I + 4] -> FP32 [B, T, span.end]."""
    batch, queries, heads, width = q_BTGI.shape
    scores = torch.empty(batch, queries, span.end, dtype=torch.float32, device=q_BTGI.device)
    if not scores.numel():
        return scores
    target = capability(q_BTGI)
    units = has_units(target)
    config, warps, stages = packed_config(queries, heads, width, target)
    q_codes, q_scales = quantise_queries(q_BTGI)
    packed_BSP, row, sequence = whole_rows(packed_BSP)
    grid = (triton.cdiv(span.end, config.KEYS), triton.cdiv(queries, config.QUERIES), batch)
    _index_scores[grid](
        operand(q_codes, units),
        q_scales,
        weights_BTG,
        operand(packed_BSP[..., :width].view(torch.float8_e4m3fn), units),
        packed_BSP[..., width:].view(torch.float32),
        span_bounds(span, q_BTGI.device),
        scores,
        batch,
        queries,
        span.end,
        sequence,
        *weights_BTG.stride()[:2],
        **_constants(row, heads, width, config, target),
        num_warps=warps,
        num_stages=stages,
    )
    return scores


def _constants(row: int, heads: int, width: int, config: Config, capability: Capability | None) -> dict[str, Any]:
    sizes = {"ROW": row, "HEADS": heads, "HEADS_WIDE": triton.next_power_of_2(heads), "WIDTH": width}
    return {**sizes, **asdict(config), "UNITS": has_units(capability)}


def builds(capability: Capability) -> list[KernelBuild]:
    """V3.2's 64 heads and GLM's 32, each of 128: one token, a few, and a chunk of a prompt."""
    return [_build(capability, queries, heads) for heads in (64, 32) for queries in (1, 4, 128)]


def _build(capability: Capability, queries: int, heads: int) -> KernelBuild:
    config, warps, stages = packed_config(queries, heads, 128, capability)
    e4m3 = "*fp8e4nv" if has_units(capability) else "*u8"
    pointers = {
        "q_ptr": e4m3,
        "q_scales_ptr": "*fp32",
        "weights_ptr": "*fp32",
        "k_ptr": e4m3,
        "k_scales_ptr": "*fp32",
        "bounds_ptr": "*i32",
        "scores_ptr": "*fp32",
    }
    strides = ("weights_stride_b", "weights_stride_t")
    return KernelBuild(
        name=f"fp8_index_scores/t{queries}/g{heads}",
        operator="fp8_index_scores",
        kernel=_index_scores,
        signature=pointers | dict.fromkeys(("batch", "queries", "keys", "sequence", *strides), "i32"),
        constants=_constants(index_key_bytes(128), heads, 128, config, capability),
        num_warps=warps,
        num_stages=stages,
        divisible_by_16=(*pointers, *strides),
        matrix_product=True,
    )
