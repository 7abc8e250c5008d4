"""Writing and reading the FP8 KV cache: latent rows as bytes, 656 at V3's shape, bit-equal to the reference."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.fp8 import latent_row_bytes
from harness_plugins.triton_kernels.e4m3 import has_units, quantise_rows
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, rounded
from harness_plugins.triton_kernels.packed_rows import FIELDS, V3, latent_constants, latent_rows, load_latents

ROWS = 8
"""Rows of a program: 4,096 latent values at V3's shape."""

FEW = 64
"""Up to so many rows a program takes one, so that a decoded batch is spread over the GPU."""


def configure(rows: int, capability: Capability | None) -> tuple[int, int]:
    """Rows and warps of a program."""
    if capability is None:
        return 2, 1
    return (1, 1) if rows <= FEW else (ROWS, 4)


@triton.jit(do_not_specialize=["tokens"])
def _pack(
    rows_ptr,
    codes_ptr,
    scales_ptr,
    rope_ptr,
    tokens,
    rows_b,
    rows_t,
    ROW: tl.constexpr,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    BLOCK_ROPE: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Grid: blocks of tokens, sequences. Every group of every token is a row of the tile that is quantised."""
    groups: tl.constexpr = BLOCK_LATENT // GROUP
    b = tl.program_id(1).to(tl.int64)
    tile_row = tl.arange(0, TOKENS * groups)
    t = tl.program_id(0) * TOKENS + tile_row // groups
    group = tile_row % groups
    column = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    mask = (t < tokens)[:, None] & (column < LATENT)
    given = rows_ptr + b * rows_b + t.to(tl.int64) * rows_t
    x = tl.load(given[:, None] + column, mask, other=0.0).to(tl.float32)
    codes, scales = quantise_rows(x, POWER_OF_TWO, UNITS)
    packed = b * tokens + t
    tl.store(codes_ptr + (packed * ROW)[:, None] + column, codes, mask)
    tl.store(scales_ptr + packed * (ROW // 4) + group, scales, (t < tokens) & (group * GROUP < LATENT))

    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    r = tl.arange(0, BLOCK_ROPE)
    mask = (t < tokens)[:, None] & (r < ROPE)[None, :]
    given = rows_ptr + b * rows_b + t.to(tl.int64) * rows_t + LATENT
    rope = tl.load(given[:, None] + r[None, :], mask, other=0.0).to(tl.float32)
    at = rope_ptr + ((b * tokens + t) * (ROW // 2))[:, None] + r[None, :]
    tl.store(at, rounded(rope, tl.bfloat16), mask)


@triton.jit(do_not_specialize=["tokens", "sequence"])
def _unpack(
    codes_ptr,
    scales_ptr,
    rope_ptr,
    rows_ptr,
    tokens,
    sequence,
    ROW: tl.constexpr,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    BLOCK_ROPE: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Grid: blocks of tokens, sequences; `sequence` rows lie between the first ones of two sequences."""
    b = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    there = t < tokens
    packed = b * sequence + t
    c, r = tl.arange(0, BLOCK_LATENT), tl.arange(0, BLOCK_ROPE)
    dtype = rows_ptr.dtype.element_ty
    codes_at, scales_at = codes_ptr + packed * ROW, scales_ptr + packed * (ROW // 4)
    latent = load_latents(codes_at, scales_at, there, dtype, LATENT, BLOCK_LATENT, GROUP, UNITS)
    out = rows_ptr + ((b * tokens + t) * (LATENT + ROPE))[:, None]
    tl.store(out + c[None, :], latent, there[:, None] & (c < LATENT)[None, :])
    rope_mask = there[:, None] & (r < ROPE)[None, :]
    rope = tl.load(rope_ptr + (packed * (ROW // 2))[:, None] + r[None, :], rope_mask, other=0.0)
    tl.store(out + LATENT + r[None, :], rounded(rope.to(tl.float32), dtype), rope_mask)


def pack_latents(rows_BTL: Tensor, latent: int, power_of_two: bool) -> Tensor:
    """See `PackLatents`: rows [B, T, C + R], C = `latent` -> uint8 [B, T, P]."""
    batch, tokens, width = rows_BTL.shape
    rope = width - latent
    packed = torch.empty(batch, tokens, latent_row_bytes(latent, rope), dtype=torch.uint8, device=rows_BTL.device)
    if packed.numel():
        target = capability(rows_BTL)
        count, warps = configure(batch * tokens, target)
        views = latent_rows(packed, latent, rope)
        _pack[(triton.cdiv(tokens, count), batch)](
            rows_BTL,
            *views.fields,
            tokens,
            *rows_BTL.stride()[:2],
            **latent_constants(views.layout),
            TOKENS=count,
            POWER_OF_TWO=power_of_two,
            UNITS=has_units(target),
            num_warps=warps,
        )
    return packed


def unpack_latents(packed_BSP: Tensor, latent: int, rope: int, dtype: torch.dtype) -> Tensor:
    """See `UnpackLatents`: uint8 [B, S, P] -> [B, S, C + R] in `dtype`."""
    batch, tokens, _ = packed_BSP.shape
    rows = torch.empty(batch, tokens, latent + rope, dtype=dtype, device=packed_BSP.device)
    if rows.numel():
        target = capability(packed_BSP)
        count, warps = configure(batch * tokens, target)
        views = latent_rows(packed_BSP, latent, rope)
        _unpack[(triton.cdiv(tokens, count), batch)](
            *views.fields,
            rows,
            tokens,
            views.sequence,
            **latent_constants(views.layout),
            TOKENS=count,
            UNITS=has_units(target),
            num_warps=warps,
        )
    return rows


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's rows: one decoded token and a prompt."""
    return [
        build
        for rows in (1, 4096)
        for build in (
            _build_pack(rows, torch.bfloat16, False, capability),
            _build_pack(rows, torch.bfloat16, True, capability),
            _build_pack(rows, torch.float32, True, capability),
            _build_unpack(rows, torch.bfloat16, capability),
            _build_unpack(rows, torch.float32, capability),
        )
    ]


def _build_pack(rows: int, dtype: torch.dtype, power_of_two: bool, capability: Capability) -> KernelBuild:
    count, warps = configure(rows, capability)
    strides = ("rows_b", "rows_t")
    return KernelBuild(
        name=f"pack_latents/{POINTERS[dtype][1:]}/{'ue8m0' if power_of_two else 'fp32'}/m{rows}",
        operator="pack_latents",
        kernel=_pack,
        signature={"rows_ptr": POINTERS[dtype], **FIELDS, **dict.fromkeys(("tokens", *strides), "i32")},
        constants={
            **latent_constants(V3),
            "TOKENS": count,
            "POWER_OF_TWO": power_of_two,
            "UNITS": has_units(capability),
        },
        num_warps=warps,
        divisible_by_16=("rows_ptr", *FIELDS, *strides),
    )


def _build_unpack(rows: int, dtype: torch.dtype, capability: Capability) -> KernelBuild:
    count, warps = configure(rows, capability)
    return KernelBuild(
        name=f"unpack_latents/{POINTERS[dtype][1:]}/m{rows}",
        operator="unpack_latents",
        kernel=_unpack,
        signature={**FIELDS, "rows_ptr": POINTERS[dtype], "tokens": "i32", "sequence": "i32"},
        constants={**latent_constants(V3), "TOKENS": count, "UNITS": has_units(capability)},
        num_warps=warps,
        divisible_by_16=(*FIELDS, "rows_ptr"),
    )
