"""Scores of DSA's lightning indexer: one pass over the keys, heads weighted and summed where their products are made.

A program holds one block of keys and goes through a block of queries. Keys are the rows of its product and heads the
columns, so that a score is summed within a thread and its neighbours; no score of a single head leaves the registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.span import Span
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, is_wide, span_bounds


@dataclass(frozen=True)
class Config:
    """Block sizes, under the names that the kernel has for them."""

    KEYS: int
    """Keys of a program."""
    QUERIES: int
    """Queries that a program goes through."""
    TOGETHER: int
    """Queries of one product; QUERIES is a multiple."""
    INNER: int
    """Columns of keys and queries multiplied at one time; all of them when it is not less than their width."""


def configure(
    queries: int, heads: int, width: int, wide: bool, capability: Capability | None
) -> tuple[Config, int, int]:
    """Block sizes, warps and stages.

    `wide` inputs are FP32, multiplied without tensor cores a few columns at a time, or registers would not suffice.
    Queries are read again for every block of keys, which costs L2 as much as it can give when keys are 128: with
    256 of them products of BF16 are the limit. One query alone waits for memory: smaller blocks, more programs.
    """
    heads_wide = triton.next_power_of_2(heads)
    inner = triton.next_power_of_2(width)
    few = max(1, 16 // heads_wide)  # a product has at least 16 columns
    if capability is None:
        return Config(KEYS=16, QUERIES=4 * few, TOGETHER=few, INNER=16 if wide else max(16, inner)), 1, 1
    if wide:
        return Config(KEYS=64, QUERIES=8 * few, TOGETHER=few, INNER=16), 4, 2
    if queries <= few:
        return Config(KEYS=128, QUERIES=few, TOGETHER=few, INNER=max(16, inner)), 4, 1
    together = max(few, min(triton.next_power_of_2(queries), 128 // heads_wide))
    several = max(together, min(triton.next_power_of_2(queries), 32))
    many = queries >= 16
    keys = 256 if many and capability[0] == 9 else 128  # 256 spill registers elsewhere
    config = Config(KEYS=keys, QUERIES=several, TOGETHER=together, INNER=max(16, inner))
    return config, 8 if many else 4, 3 if many else 2


@triton.jit(do_not_specialize=["queries", "keys"])
def _index_scores(
    q_ptr,
    weights_ptr,
    k_ptr,
    bounds_ptr,
    scores_ptr,
    batch,
    queries,
    keys,
    q_stride_b,
    q_stride_t,
    q_stride_g,
    weights_stride_b,
    weights_stride_t,
    k_stride_b,
    k_stride_s,
    HEADS: tl.constexpr,
    HEADS_WIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    QUERIES: tl.constexpr,
    TOGETHER: tl.constexpr,
    INNER: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Grid: blocks of keys, blocks of queries, sequences."""
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
    k_rows = k_ptr + b * k_stride_b + key.to(tl.int64)[:, None] * k_stride_s
    q_rows = q_ptr + b * q_stride_b + (t_of_column.to(tl.int64) * q_stride_t + head * q_stride_g)[:, None]
    weights_at = weights_ptr + b * weights_stride_b + t_of_column.to(tl.int64) * weights_stride_t + head
    t_of_row = tl.arange(0, TOGETHER)
    scores_at = scores_ptr + (b * queries + t_of_row)[None, :] * keys + key[:, None]

    for t in range(first, seen_from, TOGETHER):
        unseen = tl.full((KEYS, TOGETHER), float("-inf"), tl.float32)
        inside = (key[:, None] < keys) & (t + t_of_row < last)[None, :]
        tl.store(scores_at + tl.cast(t, tl.int64) * keys, unseen, mask=inside)

    if INNER >= WIDTH:
        k = tl.load(k_rows + inner[None, :], mask=(key < end)[:, None] & (inner < WIDTH)[None, :], other=0.0)
        if WIDE:
            k = k.to(tl.float32)
    for t in range(seen_from, last, TOGETHER):
        real = (t + t_of_column < last) & (head < HEADS)
        q_now = q_rows + tl.cast(t, tl.int64) * q_stride_t
        if INNER >= WIDTH:
            q = tl.load(q_now + inner[None, :], mask=real[:, None] & (inner < WIDTH)[None, :], other=0.0)
            if WIDE:
                q = q.to(tl.float32)
            per_head = tl.dot(k, tl.trans(q), input_precision="ieee")
        else:
            per_head = tl.zeros((KEYS, TOGETHER * HEADS_WIDE), tl.float32)
            for i in range(0, WIDTH, INNER):
                part = i + inner
                q = tl.load(q_now + part[None, :], mask=real[:, None] & (part < WIDTH)[None, :], other=0.0)
                k = tl.load(k_rows + part[None, :], mask=(key < end)[:, None] & (part < WIDTH)[None, :], other=0.0)
                per_head = tl.dot(k.to(tl.float32), tl.trans(q.to(tl.float32)), per_head, input_precision="ieee")
        weights = tl.load(weights_at + tl.cast(t, tl.int64) * weights_stride_t, mask=real, other=0.0)
        weighted = tl.maximum(per_head, 0.0) * weights.to(tl.float32)[None, :]
        scores = tl.sum(tl.reshape(weighted, (KEYS, TOGETHER, HEADS_WIDE)), 2)
        seen = (key[:, None] <= start + t + t_of_row[None, :]) & (key < end)[:, None]
        inside = (key[:, None] < keys) & (t + t_of_row < last)[None, :]
        tl.store(scores_at + tl.cast(t, tl.int64) * keys, tl.where(seen, scores, float("-inf")), mask=inside)


def index_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
    """See `IndexScores`: q [B, T, G, I], weights [B, T, G], k [B, S, I] -> FP32 [B, T, span.end]."""
    batch, queries, heads, width = q_BTGI.shape
    scores = torch.empty(batch, queries, span.end, dtype=torch.float32, device=q_BTGI.device)
    if not scores.numel():
        return scores
    wide = q_BTGI.dtype == torch.float32
    config, warps, stages = configure(queries, heads, width, wide, capability(q_BTGI))
    grid = (triton.cdiv(span.end, config.KEYS), triton.cdiv(queries, config.QUERIES), batch)
    _index_scores[grid](
        q_BTGI,
        weights_BTG,
        k_BSI,
        span_bounds(span, q_BTGI.device),
        scores,
        batch,
        queries,
        span.end,
        *q_BTGI.stride()[:3],
        *weights_BTG.stride()[:2],
        *k_BSI.stride()[:2],
        HEADS=heads,
        HEADS_WIDE=triton.next_power_of_2(heads),
        WIDTH=width,
        WIDE=is_wide(q_BTGI.dtype),
        **asdict(config),
        num_warps=warps,
        num_stages=stages,
    )
    return scores


def builds(capability: Capability) -> Sequence[KernelBuild]:
    """V3.2's 64 heads and GLM's 32, each of 128: one token, a few, and a chunk of a prompt."""
    return [
        _build(capability, dtype, name, queries, heads)
        for heads in (64, 32)
        for dtype, name, queries in (
            (torch.bfloat16, "bf16", 1),
            (torch.bfloat16, "bf16", 4),
            (torch.bfloat16, "bf16", 128),
            (torch.float32, "fp32", 128),
        )
    ]


def _build(capability: Capability, dtype: torch.dtype, name: str, queries: int, heads: int) -> KernelBuild:
    wide = dtype == torch.float32
    config, warps, stages = configure(queries, heads, 128, wide, capability)
    pointers = {
        "q_ptr": POINTERS[dtype],
        "weights_ptr": "*fp32",
        "k_ptr": POINTERS[dtype],
        "bounds_ptr": "*i32",
        "scores_ptr": "*fp32",
    }
    strides = [f"q_stride_{dim}" for dim in "btg"]
    strides += [f"{given}_stride_{dim}" for given, dims in (("weights", "bt"), ("k", "bs")) for dim in dims]
    return KernelBuild(
        name=f"index_scores/{name}/t{queries}/g{heads}",
        operator="index_scores",
        kernel=_index_scores,
        signature=pointers | dict.fromkeys(("batch", "queries", "keys", *strides), "i32"),
        constants={"HEADS": heads, "HEADS_WIDE": heads, "WIDTH": 128, "WIDE": wide, **asdict(config)},
        num_warps=warps,
        num_stages=stages,
        divisible_by_16=(*pointers, *strides),
        matrix_product=not wide,
    )
