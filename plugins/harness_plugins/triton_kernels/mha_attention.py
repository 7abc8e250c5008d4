"""Attention with keys and values of every head: prefill, chunks and decode, causal or over selected keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.span import Span
from harness_plugins.triton_kernels.latent_blocks import LOG2_E, inside
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, is_wide, rounded, span_bounds

MASK_BYTES = 64 << 20
"""Largest mask of selected keys, a byte each; longer calls go through it some queries at a time."""

STRIDES = ("q_b", "q_t", "q_h", "k_b", "k_h", "k_s", "v_b", "v_h", "v_s")


@dataclass(frozen=True)
class HeadBlocks:
    """A configuration: query rows of a program, keys of a step."""

    queries: int
    keys: int
    warps: int
    stages: int


INTERPRETED = HeadBlocks(16, 16, 4, 1)
WIDE = HeadBlocks(16, 32, 8, 1)
WIDE_AMPERE = HeadBlocks(16, 16, 8, 1)
FEW_QUERIES = HeadBlocks(16, 64, 4, 2)
"""Decode: bound by memory, and 16 rows are the least that a matrix instruction takes."""
HOPPER = HeadBlocks(128, 64, 8, 3)
"""With 128 keys a step 8 warps run out of registers."""
AMPERE = HeadBlocks(64, 64, 8, 2)
"""4 warps have room for 32 keys a step, and not for the mask of a selection."""


def head_blocks(dtype: torch.dtype, tokens: int, capability: Capability | None) -> HeadBlocks:
    """The configuration for `tokens` queries a head in `dtype` on hardware of `capability` (None: interpreted)."""
    if capability is None:
        return INTERPRETED
    if dtype == torch.float32:
        return WIDE if capability[0] in (9, 10) else WIDE_AMPERE
    if tokens <= FEW_QUERIES.queries:
        return FEW_QUERIES
    return HOPPER if capability[0] in (9, 10) else AMPERE


@triton.jit
def _attend_range(
    q_head,
    q_tail,
    k_ptr,
    v_ptr,
    k_s,
    v_s,
    mask_row,
    position,
    first,
    last,
    best,
    total,
    mixed,
    scale,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    BLOCK_TAIL: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
    SELECTED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The online softmax over keys first to last; without MASKED every row sees all of them, in whole blocks.

    A key has HEAD + TAIL components, so that a width of 192 is two products, of 128 and of 64.
    """
    a, e, v = tl.arange(0, BLOCK_HEAD), tl.arange(0, BLOCK_TAIL), tl.arange(0, BLOCK_VALUE)
    keys = tl.arange(0, KEYS)
    for at in range(first, last, KEYS):
        k_row = k_ptr + tl.cast(at, tl.int64) * k_s + keys[:, None] * k_s
        v_row = v_ptr + tl.cast(at, tl.int64) * v_s + keys[:, None] * v_s
        if MASKED:
            there = (at + keys < last)[:, None]
        else:
            there = (keys >= 0)[:, None]
        k_head = tl.load(k_row + a[None, :], inside(there, a, HEAD, BLOCK_HEAD), other=0.0)
        k_tail = tl.load(k_row + HEAD + e[None, :], inside(there, e, TAIL, BLOCK_TAIL), other=0.0)
        values = tl.load(v_row + v[None, :], inside(there, v, VALUE, BLOCK_VALUE), other=0.0)
        if WIDE:
            k_head, k_tail, values = k_head.to(tl.float32), k_tail.to(tl.float32), values.to(tl.float32)
        scores = tl.dot(q_head, tl.trans(k_head), input_precision="ieee")
        scores = tl.dot(q_tail, tl.trans(k_tail), scores, input_precision="ieee") * scale
        if MASKED:
            s = at + keys
            seen = (s[None, :] <= position[:, None]) & (s < last)[None, :]
            if SELECTED:
                seen = seen & (tl.load(mask_row[:, None] + s[None, :], seen, other=0) > 0)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - shift[:, None])
        shrunk = tl.exp2(best - shift)
        total = total * shrunk + tl.sum(weights, 1)
        best = higher
        mixed = tl.dot(weights.to(values.dtype), values, mixed * shrunk[:, None], input_precision="ieee")
    return best, total, mixed


@triton.jit(do_not_specialize=["batch", "tokens", "mask_width"])
def _attend(
    q_ptr,
    k_ptr,
    v_ptr,
    mask_ptr,
    bounds_ptr,
    out_ptr,
    batch,
    tokens,
    heads,
    mask_width,
    q_b,
    q_t,
    q_h,
    k_b,
    k_h,
    k_s,
    v_b,
    v_h,
    v_s,
    scale,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK_HEAD: tl.constexpr,
    BLOCK_TAIL: tl.constexpr,
    BLOCK_VALUE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SELECTED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """QUERIES queries of one head of one sequence; the last come first, since they have the most keys."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    h, b = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    start, end = tl.load(bounds_ptr + b), tl.load(bounds_ptr + batch + b)
    t = block * QUERIES + tl.arange(0, QUERIES)
    real, position = t < tokens, start + t
    last = tl.minimum(end, start + tl.minimum(block * QUERIES + QUERIES, tokens))
    a, e, v = tl.arange(0, BLOCK_HEAD), tl.arange(0, BLOCK_TAIL), tl.arange(0, BLOCK_VALUE)
    q_row = q_ptr + b * q_b + h * q_h + t.to(tl.int64)[:, None] * q_t
    q_head = tl.load(q_row + a[None, :], inside(real[:, None], a, HEAD, BLOCK_HEAD), other=0.0)
    q_tail = tl.load(q_row + HEAD + e[None, :], inside(real[:, None], e, TAIL, BLOCK_TAIL), other=0.0)
    if WIDE:
        q_head, q_tail = q_head.to(tl.float32), q_tail.to(tl.float32)
    k_ptr += b * k_b + h * k_h
    v_ptr += b * v_b + h * v_h
    mask_row = mask_ptr + (b * tokens + t) * mask_width

    best = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, BLOCK_VALUE], tl.float32)
    border = 0
    if not SELECTED:  # blocks that the first query of this program sees whole need no mask
        border = tl.minimum(end, start + block * QUERIES + 1) // KEYS * KEYS
        best, total, mixed = _attend_range(
            q_head, q_tail, k_ptr, v_ptr, k_s, v_s, mask_row, position, 0, border, best, total, mixed, scale,
            HEAD, TAIL, VALUE, BLOCK_HEAD, BLOCK_TAIL, BLOCK_VALUE, KEYS, False, False, WIDE,
        )  # fmt: skip
    best, total, mixed = _attend_range(
        q_head, q_tail, k_ptr, v_ptr, k_s, v_s, mask_row, position, border, last, best, total, mixed, scale,
        HEAD, TAIL, VALUE, BLOCK_HEAD, BLOCK_TAIL, BLOCK_VALUE, KEYS, True, SELECTED, WIDE,
    )  # fmt: skip
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    out = out_ptr + ((b * tokens + t) * heads + h)[:, None] * VALUE + v[None, :]
    tl.store(out, rounded(mixed, out_ptr.dtype.element_ty), inside(real[:, None], v, VALUE, BLOCK_VALUE))


@triton.jit(do_not_specialize=["tokens", "count", "mask_width"])
def _mark(selected_ptr, mask_ptr, tokens, count, mask_width, selected_b, selected_t, BLOCK: tl.constexpr):
    """Set the bytes of the selected keys of one query; -1 and what lies beyond the mask are no keys."""
    row = tl.program_id(0).to(tl.int64)
    selected_ptr += row // tokens * selected_b + row % tokens * selected_t
    for at in range(0, count, BLOCK):
        k = at + tl.arange(0, BLOCK)
        s = tl.load(selected_ptr + k, k < count, other=-1)
        tl.store(mask_ptr + row * mask_width + s, 1, (s >= 0) & (s < mask_width))


def mha_attention(
    q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
) -> Tensor:
    """See `MhaAttention`: q [B, T, H, Q], k [B, H, S, Q], v [B, H, S, V], selected [B, T, K] -> [B, T, H, V].

    A selection becomes a mask, in chunks of queries; keys that are not selected are computed and hidden.
    """
    batch, tokens, heads, _ = q_BTHQ.shape
    out_BTHV = q_BTHQ.new_empty(batch, tokens, heads, v_BHSV.shape[-1])
    if not out_BTHV.numel():
        return out_BTHV
    if selected_BTK is None:
        _launch(q_BTHQ, k_BHSQ, v_BHSV, span, scale, None, out_BTHV)
        return out_BTHV
    chunk = max(1, MASK_BYTES // max(1, batch * span.end))
    if tokens <= chunk:
        _launch(q_BTHQ, k_BHSQ, v_BHSV, span, scale, _mask(selected_BTK, span.end), out_BTHV)
        return out_BTHV
    for columns, part in span.chunks(chunk):
        few = mha_attention(q_BTHQ[:, columns], k_BHSQ, v_BHSV, part, scale, selected_BTK[:, columns])
        out_BTHV[:, columns] = few
    return out_BTHV


def _mask(selected_BTK: Tensor, keys: int) -> Tensor:
    """int8 [B, T, keys]: 1 at selected keys."""
    batch, tokens, count = selected_BTK.shape
    mask_BTS = torch.zeros(batch, tokens, keys, dtype=torch.int8, device=selected_BTK.device)
    block = min(1024, triton.next_power_of_2(count))
    strides = selected_BTK.stride()[:2]
    _mark[(batch * tokens,)](selected_BTK, mask_BTS, tokens, count, keys, *strides, BLOCK=block, num_warps=4)
    return mask_BTS


def _launch(
    q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, mask_BTS: Tensor | None, out: Tensor
) -> None:
    batch, tokens, heads, width = q_BTHQ.shape
    blocks = head_blocks(q_BTHQ.dtype, tokens, capability(q_BTHQ))
    bounds = span_bounds(span, q_BTHQ.device)
    _attend[(triton.cdiv(tokens, blocks.queries), heads, batch)](
        q_BTHQ,
        k_BHSQ,
        v_BHSV,
        bounds if mask_BTS is None else mask_BTS,  # any pointer will do where it is not followed
        bounds,
        out,
        batch,
        tokens,
        heads,
        span.end,
        *q_BTHQ.stride()[:3],
        *k_BHSQ.stride()[:3],
        *v_BHSV.stride()[:3],
        scale * LOG2_E,
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        **_constants(width, out.shape[-1], blocks, mask_BTS is not None, q_BTHQ.dtype),
    )


def _constants(width: int, value: int, blocks: HeadBlocks, selected: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The largest power of two in a key's width and the rest of it, and the blocks that hold them."""
    head = 1 << (width.bit_length() - 1)
    tail = width - head
    return {
        "HEAD": head,
        "TAIL": tail,
        "VALUE": value,
        "BLOCK_HEAD": max(16, head),
        "BLOCK_TAIL": max(16, triton.next_power_of_2(tail)),
        "BLOCK_VALUE": max(16, triton.next_power_of_2(value)),
        "QUERIES": blocks.queries,
        "KEYS": blocks.keys,
        "SELECTED": selected,
        "WIDE": is_wide(dtype),
    }


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's heads in prefill and decode, all keys and selected ones; and the mask of a selection."""
    attends = [
        _build(capability, dtype, name, tokens, selected)
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
        for tokens in (4096, 1)
        for selected in (False, True)
    ]
    mark = KernelBuild(
        name="mha_attention/mask",
        operator="mha_attention",
        kernel=_mark,
        signature={
            "selected_ptr": "*i32",
            "mask_ptr": "*i8",
            **dict.fromkeys(("tokens", "count", "mask_width", "selected_b", "selected_t"), "i32"),
        },
        constants={"BLOCK": 1024},
        num_warps=4,
        divisible_by_16=("selected_ptr", "mask_ptr", "selected_b", "selected_t"),
    )
    return [*attends, mark]


def _build(capability: Capability, dtype: torch.dtype, name: str, tokens: int, selected: bool) -> KernelBuild:
    blocks = head_blocks(dtype, tokens, capability)
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), POINTERS[dtype])
    phase = "prefill" if tokens > 1 else "decode"
    return KernelBuild(
        name=f"mha_attention/{name}/{phase}{'/selected' if selected else ''}",
        operator="mha_attention",
        kernel=_attend,
        signature={
            **pointers,
            "mask_ptr": "*i8" if selected else "*i32",
            "bounds_ptr": "*i32",
            **dict.fromkeys(("batch", "tokens", "heads", "mask_width", *STRIDES), "i32"),
            "scale": "fp32",
        },
        constants=_constants(192, 128, blocks, selected, dtype),
        num_warps=blocks.warps,
        num_stages=blocks.stages,
        divisible_by_16=(*pointers, "mask_ptr", "bounds_ptr", "heads", *STRIDES),
        matrix_product=dtype != torch.float32,  # FP32 products are exact: no matrix instructions have them
    )
