"""Block-scaled matrix product of E4M3 operands: activations 1 x 128, weights 128 x 128 (DeepSeek-V3, section 3.3.2).

A program makes one tile of the output and goes along K in steps of 128, the length over which both scales are
constant: FP8 matrix units keep few bits of a running sum, so every step's product is taken out, scaled and added in
FP32 registers. On Hopper a tile is two products over the same weights, one after the other, so that the registers of
one partial result serve both and a processor holds two programs: the units compute for one while the other adds.
Where tiles are too few to fill the GPU (decoding), K is split too, and a second kernel adds the parts in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.fp8 import BLOCK, blocks
from harness_plugins.triton_kernels.e4m3 import decode, has_units, operand
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, rounded

PROCESSORS = {8: 108, 9: 132, 10: 148}
"""Streaming multiprocessors of an A100, H100 or H200, and B200: what tiles and splits are counted against, so that
the choice is the same without a device. Other GPUs count as the first: their shared memory is no larger."""

PARTS = 1024
"""Values of the sum over splits that one program adds."""

STEP = tl.constexpr(BLOCK)


@dataclass(frozen=True)
class Config:
    """Tile and launch of a product."""

    rows: int
    """Of one half."""
    halves: int
    columns: int
    """They divide 128, so that a tile has one weight scale."""
    splits: int
    num_warps: int
    num_stages: int


WIDE = {8: Config(128, 1, 64, 1, 8, 3), 9: Config(64, 2, 128, 1, 4, 3), 10: Config(128, 1, 128, 1, 8, 4)}
"""Tiles of prompts. Before sm_89 operands are widened in registers, which leaves room for smaller ones."""


def configure(rows: int, columns: int, depth: int, capability: Capability | None) -> Config:
    """The tile for x [rows, depth] times weight [columns, depth]: as large as still fills the GPU."""
    if capability is None:
        few = rows <= 16
        return Config(16, 1 if few else 2, 32, 2 if few and depth > BLOCK else 1, num_warps=1, num_stages=1)
    if rows <= 16:
        return _split(Config(16, 1, 64, 1, num_warps=4, num_stages=6), rows, columns, depth, capability)
    wide = WIDE.get(capability[0], WIDE[8])
    if rows <= 64 or _tiles(wide, rows, columns) < _processors(capability):
        narrow = Config(64, 1, 64 if rows <= 64 else 128, 1, num_warps=4, num_stages=4)
        return _split(narrow, rows, columns, depth, capability)
    return wide


def _processors(capability: Capability) -> int:
    return PROCESSORS.get(capability[0], PROCESSORS[8])


def _tiles(config: Config, rows: int, columns: int) -> int:
    return triton.cdiv(rows, config.rows * config.halves) * triton.cdiv(columns, config.columns)


def _split(config: Config, rows: int, columns: int, depth: int, capability: Capability) -> Config:
    """With so many splits of K that every processor gets about three programs, each at least four steps long."""
    wanted = triton.cdiv(3 * _processors(capability), _tiles(config, rows, columns))
    return replace(config, splits=max(1, min(wanted, blocks(depth) // 4, 16)))


@triton.jit
def product(x, weight, start, UNITS: tl.constexpr):
    """start + x [M, 128] times weight [N, 128] transposed, of E4M3 values."""
    if not UNITS:
        x = decode(x, UNITS)
        weight = decode(weight, UNITS)
    return tl.dot(x, tl.trans(weight), acc=start)


@triton.jit
def zeros_after(total):
    """Zeros that depend on `total`: what starts from them runs after it, and its registers are free again by then.

    Without this the assembler adds both halves' results at the end, holds them all, and spills.
    """
    return tl.minimum(tl.abs(total), 0.0)


@triton.jit
def load_step(row_ptr, step, depth, EVEN: tl.constexpr):
    """128 values [rows, 128] of step number `step` from pointers to rows; zeros beyond `depth` unless EVEN."""
    column = tl.arange(0, STEP) + step * STEP
    pointers = row_ptr[:, None] + column[None, :]
    if EVEN:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=(column < depth)[None, :], other=0.0)
    return values


@triton.jit(do_not_specialize=["rows"])
def _fp8_gemm(
    x_ptr,
    x_scales_ptr,
    weight_ptr,
    weight_scales_ptr,
    out_ptr,
    rows,
    columns,
    depth,
    x_stride,
    x_scales_stride,
    weight_stride,
    weight_scales_stride,
    ROWS: tl.constexpr,
    HALVES: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
    EVEN: tl.constexpr,
    UNITS: tl.constexpr,
):
    """out is [rows, columns], or FP32 [SPLITS, rows, columns].

    Rows and columns beyond the end repeat the last one: nothing is masked but K and the store.
    """
    tile_row, tile_column = _tile(tl.program_id(0), rows, columns, ROWS * HALVES, COLUMNS)
    upper_row = (tile_row * ROWS * HALVES + tl.arange(0, ROWS)).to(tl.int64)
    lower_row = upper_row + ROWS
    column = (tile_column * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    safe_upper = tl.minimum(upper_row, rows - 1)
    safe_lower = tl.minimum(lower_row, rows - 1)
    weight_rows = weight_ptr + tl.minimum(column, columns - 1) * weight_stride
    weight_scales = weight_scales_ptr + (tile_column * COLUMNS // STEP) * weight_scales_stride

    upper = tl.zeros((ROWS, COLUMNS), tl.float32)
    lower = tl.zeros((ROWS, COLUMNS), tl.float32)
    nothing = tl.zeros((ROWS, COLUMNS), tl.float32)
    steps = tl.cdiv(depth, STEP)
    share = tl.cdiv(steps, SPLITS)
    first = tl.program_id(1) * share
    for step in range(first, tl.minimum(first + share, steps)):
        weight_scale = tl.load(weight_scales + step)
        upper_scale = tl.load(x_scales_ptr + safe_upper * x_scales_stride + step) * weight_scale
        weight = load_step(weight_rows, step, depth, EVEN)
        x = load_step(x_ptr + safe_upper * x_stride, step, depth, EVEN)
        upper += product(x, weight, nothing, UNITS) * upper_scale[:, None]
        if HALVES == 2:
            lower_scale = tl.load(x_scales_ptr + safe_lower * x_scales_stride + step) * weight_scale
            x = load_step(x_ptr + safe_lower * x_stride, step, depth, EVEN)
            lower += product(x, weight, zeros_after(upper), UNITS) * lower_scale[:, None]

    out = out_ptr + tl.program_id(1).to(tl.int64) * rows * columns + column[None, :]
    inside = (column < columns)[None, :]
    dtype = out_ptr.dtype.element_ty
    tl.store(out + upper_row[:, None] * columns, rounded(upper, dtype), mask=(upper_row < rows)[:, None] & inside)
    if HALVES == 2:
        tl.store(out + lower_row[:, None] * columns, rounded(lower, dtype), mask=(lower_row < rows)[:, None] & inside)


@triton.jit
def _tile(program, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row and column of a program's tile: eight tiles of rows run beside each other and share weights in the L2."""
    tile_rows = tl.cdiv(rows, ROWS)
    in_band = 8 * tl.cdiv(columns, COLUMNS)
    band = program // in_band
    height = tl.minimum(tile_rows - band * 8, 8)
    return band * 8 + program % in_band % height, program % in_band // height


@triton.jit
def _add_parts(parts_ptr, out_ptr, size, SPLITS: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """out [size] = the sum of parts [SPLITS, size], in order."""
    place = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    total = tl.zeros((BLOCK_SIZE,), tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + split * tl.cast(size, tl.int64) + place, mask=place < size, other=0.0)
    tl.store(out_ptr + place, rounded(total, out_ptr.dtype.element_ty), mask=place < size)


def fp8_gemm(
    x_MK: Tensor, x_scales_Mk: Tensor, weight_NK: Tensor, weight_scales_nk: Tensor, dtype: torch.dtype
) -> Tensor:
    """See `Fp8Gemm`: E4M3 x and weight, FP32 scales per 1 x 128 and 128 x 128 -> [M, N] in `dtype`."""
    (rows, depth), columns = x_MK.shape, weight_NK.shape[0]
    out_MN = torch.empty(rows, columns, dtype=dtype, device=x_MK.device)
    if not out_MN.numel():
        return out_MN
    target = capability(x_MK)
    config, units = configure(rows, columns, depth, target), has_units(target)
    parts = out_MN.new_empty(config.splits, rows, columns, dtype=torch.float32) if config.splits > 1 else out_MN
    _fp8_gemm[(_tiles(config, rows, columns), config.splits)](
        operand(x_MK, units),
        x_scales_Mk,
        operand(weight_NK, units),
        weight_scales_nk,
        parts,
        rows,
        columns,
        depth,
        x_MK.stride(0),
        x_scales_Mk.stride(0),
        weight_NK.stride(0),
        weight_scales_nk.stride(0),
        **_constants(config, depth, units),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if config.splits > 1:
        grid = (triton.cdiv(out_MN.numel(), PARTS),)
        _add_parts[grid](parts, out_MN, out_MN.numel(), SPLITS=config.splits, BLOCK_SIZE=PARTS, num_warps=4)
    return out_MN


def _constants(config: Config, depth: int, units: bool) -> dict[str, Any]:
    return {
        "ROWS": config.rows,
        "HALVES": config.halves,
        "COLUMNS": config.columns,
        "SPLITS": config.splits,
        "EVEN": depth % BLOCK == 0,
        "UNITS": units,
    }


SHAPES = ((24576, 1536), (7168, 16384), (4096, 7168), (7168, 2048), (2112, 7168))
"""[N, K] of V3: queries' up-projection, attention output, a shared expert's gate and up, its down, latents."""

ROWS_BUILT = (1, 64, 128, 1024, 4096)


def builds(capability: Capability) -> list[KernelBuild]:
    """Every configuration that V3's projections take, from a decoded token to a prompt."""
    products: dict[str, KernelBuild] = {}
    for rows in ROWS_BUILT:
        for columns, depth in SHAPES:
            build = _build_product(configure(rows, columns, depth, capability), depth, capability)
            products.setdefault(build.name, build)
    splits = sorted({build.constants["SPLITS"] for build in products.values()} - {1})
    return [*products.values(), *(_build_sum(count) for count in splits)]


def _build_product(config: Config, depth: int, capability: Capability) -> KernelBuild:
    units = has_units(capability)
    e4m3 = "*fp8e4nv" if units else "*u8"
    out = torch.float32 if config.splits > 1 else torch.bfloat16
    strides = ("x_stride", "weight_stride")
    return KernelBuild(
        name=f"fp8_gemm/{config.rows * config.halves}x{config.columns}/split{config.splits}",
        operator="fp8_gemm",
        kernel=_fp8_gemm,
        signature={
            "x_ptr": e4m3,
            "x_scales_ptr": "*fp32",
            "weight_ptr": e4m3,
            "weight_scales_ptr": "*fp32",
            "out_ptr": POINTERS[out],
            **dict.fromkeys(("rows", "columns", "depth", *strides), "i32"),
            **dict.fromkeys(("x_scales_stride", "weight_scales_stride"), "i32"),
        },
        constants=_constants(config, depth, units),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        divisible_by_16=(
            "x_ptr",
            "x_scales_ptr",
            "weight_ptr",
            "weight_scales_ptr",
            "out_ptr",
            "columns",
            "depth",
            *strides,
        ),
        matrix_product=True,
    )


def _build_sum(splits: int) -> KernelBuild:
    return KernelBuild(
        name=f"fp8_gemm_sum/split{splits}",
        operator="fp8_gemm",
        kernel=_add_parts,
        signature={"parts_ptr": "*fp32", "out_ptr": "*bf16", "size": "i32"},
        constants={"SPLITS": splits, "BLOCK_SIZE": PARTS},
        num_warps=4,
        divisible_by_16=("parts_ptr", "out_ptr", "size"),
    )
