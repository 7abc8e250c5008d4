"""Routed experts' networks in three kernels: gate and up with SwiGLU, down, and the weighted sum of every token.

Rows are sorted by expert in blocks (`expert_blocks.py`), so that a block's product has one expert's weights. Nothing is
added by atomics: down writes a row per slot, and a token adds its own in the order of its experts, so a result depends
neither on timing nor on the tokens beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.expert_blocks import ExpertBlocks, expert_blocks
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, is_wide, rounded

GROUP = 8
"""Blocks of rows that go through all columns before the next ones do: their rows, and the weights, meet in L2."""

SUM_BLOCK = 1024
"""Columns of a program that sums."""


@dataclass(frozen=True)
class Tile:
    """One product's block sizes, warps and stages."""

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Config:
    """Both products work on the same blocks of rows."""

    gate_up: Tile
    down: Tile

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.gate_up.rows


def configure(slots: int, experts: int, wide: bool, capability: Capability | None) -> Config:
    """By how many rows an expert has when all have equally many.

    Few: only the weights' bytes matter, so blocks are narrow and many. Up to 256, products matter too, and blocks of
    64 rows waste less on padding than their better use of L2 would win with 128. `wide` inputs are FP32, multiplied
    without tensor cores.
    """
    rows = slots / min(experts, slots)
    if capability is None:
        return Config(Tile(16, 16, 16, 1, 1), Tile(16, 32, 16, 1, 1))
    if wide:
        return _wide(16) if rows <= 16 else _wide(64)
    if rows <= 16:
        return Config(Tile(16, 64, 128, 4, 3), Tile(16, 64, 128, 4, 4))
    if rows <= 256:
        return Config(Tile(64, 64, 64, 4, 4), Tile(64, 128, 64, 4, 4))
    if capability < (9, 0):
        return Config(Tile(128, 64, 64, 8, 3), Tile(128, 128, 64, 8, 3))  # wider ones spill registers
    return Config(Tile(128, 128, 64, 8, 4), Tile(128, 256, 64, 8, 4))


def _wide(rows: int) -> Config:
    return Config(Tile(rows, 32, 16, 4, 2), Tile(rows, 64, 16, 4, 2))


@triton.jit
def _place(program, blocks, column_blocks, GROUP: tl.constexpr):
    """Which block of rows and which of columns a program computes: GROUP blocks of rows side by side."""
    group = program // (GROUP * column_blocks)
    inside = program % (GROUP * column_blocks)
    size = min(blocks - group * GROUP, GROUP)
    return group * GROUP + inside % size, inside // size


@triton.jit(do_not_specialize=["blocks"])
def _gate_up(
    x_ptr,
    slots_ptr,
    owners_ptr,
    weights_ptr,
    hidden_ptr,
    blocks,
    x_stride_m,
    weights_stride_e,
    weights_stride_x,
    CHOSEN: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    WIDE: tl.constexpr,
):
    """hidden [P, HIDDEN] = silu(gate) * up of the rows x [M, WIDTH] that slots_ptr [P] names, CHOSEN slots a token."""
    block, column_block = _place(tl.program_id(0), blocks, tl.cdiv(HIDDEN, COLUMNS), GROUP)
    expert = tl.load(owners_ptr + block).to(tl.int64)
    if expert < 0:
        return
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token = tl.maximum(tl.load(slots_ptr + row), 0).to(tl.int64) // CHOSEN  # padding computes token 0: nobody reads it
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    loaded = column % HIDDEN  # columns beyond the last load others, and are not stored
    inner = tl.arange(0, INNER)
    x_at = x_ptr + token[:, None] * x_stride_m + inner[None, :]
    gate_at = weights_ptr + expert * weights_stride_e + loaded[None, :] * weights_stride_x + inner[:, None]
    up_at = gate_at + HIDDEN * weights_stride_x
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, WIDTH, INNER):
        if WIDTH % INNER == 0:
            x = tl.load(x_at + first)
            gate_part = tl.load(gate_at + first)
            up_part = tl.load(up_at + first)
        else:
            inside = first + inner < WIDTH
            x = tl.load(x_at + first, mask=inside[None, :], other=0.0)
            gate_part = tl.load(gate_at + first, mask=inside[:, None], other=0.0)
            up_part = tl.load(up_at + first, mask=inside[:, None], other=0.0)
        if WIDE:
            x, gate_part, up_part = x.to(tl.float32), gate_part.to(tl.float32), up_part.to(tl.float32)
        gate = tl.dot(x, gate_part, gate, input_precision="ieee")
        up = tl.dot(x, up_part, up, input_precision="ieee")
    hidden = gate * tl.sigmoid(gate) * up
    hidden_at = hidden_ptr + row[:, None] * HIDDEN + column[None, :]
    tl.store(hidden_at, rounded(hidden, hidden_ptr.dtype.element_ty), mask=(column < HIDDEN)[None, :])


@triton.jit(do_not_specialize=["blocks"])
def _down(
    hidden_ptr,
    slots_ptr,
    owners_ptr,
    weights_ptr,
    out_ptr,
    blocks,
    weights_stride_e,
    weights_stride_d,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    WIDE: tl.constexpr,
):
    """out [MA, WIDTH], by slot, from hidden [P, HIDDEN], by row."""
    block, column_block = _place(tl.program_id(0), blocks, tl.cdiv(WIDTH, COLUMNS), GROUP)
    expert = tl.load(owners_ptr + block).to(tl.int64)
    if expert < 0:
        return
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slots_ptr + row).to(tl.int64)
    column = column_block * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    hidden_at = hidden_ptr + row[:, None] * HIDDEN + inner[None, :]
    weights_at = weights_ptr + expert * weights_stride_e + (column % WIDTH)[None, :] * weights_stride_d + inner[:, None]
    out = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, HIDDEN, INNER):
        if HIDDEN % INNER == 0:
            hidden = tl.load(hidden_at + first)
            weights = tl.load(weights_at + first)
        else:
            inside = first + inner < HIDDEN
            hidden = tl.load(hidden_at + first, mask=inside[None, :], other=0.0)
            weights = tl.load(weights_at + first, mask=inside[:, None], other=0.0)
        if WIDE:
            hidden, weights = hidden.to(tl.float32), weights.to(tl.float32)
        out = tl.dot(hidden, weights, out, input_precision="ieee")
    out_at = out_ptr + slot[:, None] * WIDTH + column[None, :]
    tl.store(out_at, rounded(out, out_ptr.dtype.element_ty), mask=(slot >= 0)[:, None] & (column < WIDTH)[None, :])


@triton.jit
def _weighted_sum(
    slots_ptr, weights_ptr, out_ptr, weights_stride_m, CHOSEN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """out [M, WIDTH] = sum over a of weights [M, a] * slots [M * CHOSEN + a, WIDTH], in the order of a."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for a in range(CHOSEN):
        value = tl.load(slots_ptr + (token * CHOSEN + a) * WIDTH + column, mask=column < WIDTH, other=0.0)
        total += tl.load(weights_ptr + token * weights_stride_m + a).to(tl.float32) * value.to(tl.float32)
    tl.store(out_ptr + token * WIDTH + column, rounded(total, out_ptr.dtype.element_ty), mask=column < WIDTH)


def grouped_experts(
    x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor, gate_up_EXD: Tensor, down_EDF: Tensor
) -> Tensor:
    """See `GroupedExperts`: x [M, D], experts and weights [M, A], gate_up [E, 2F, D], down [E, D, F] -> [M, D]."""
    if not x_MD.numel():
        return torch.empty_like(x_MD)
    wide = x_MD.dtype == torch.float32
    config = configure(experts_MA.numel(), down_EDF.shape[0], wide, capability(x_MD))
    blocks = expert_blocks(experts_MA, down_EDF.shape[0], config.rows)
    hidden_PF = _launch_gate_up(x_MD, gate_up_EXD, blocks, experts_MA.shape[1], config.gate_up)
    slots_SD = _launch_down(hidden_PF, down_EDF, blocks, experts_MA.numel(), config.down)
    return weighted_sum(slots_SD, weights_MA)


def _launch_gate_up(x_MD: Tensor, weights_EXD: Tensor, blocks: ExpertBlocks, chosen: int, tile: Tile) -> Tensor:
    hidden = weights_EXD.shape[1] // 2
    hidden_PF = x_MD.new_empty(blocks.slots_P.shape[0], hidden)
    _gate_up[(blocks.blocks * triton.cdiv(hidden, tile.columns),)](
        x_MD,
        blocks.slots_P,
        blocks.experts_p,
        weights_EXD,
        hidden_PF,
        blocks.blocks,
        x_MD.stride(0),
        *weights_EXD.stride()[:2],
        CHOSEN=chosen,
        **_constants(x_MD.shape[1], hidden, tile, is_wide(x_MD.dtype)),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return hidden_PF


def _launch_down(hidden_PF: Tensor, weights_EDF: Tensor, blocks: ExpertBlocks, slots: int, tile: Tile) -> Tensor:
    _, width, hidden = weights_EDF.shape
    out_SD = hidden_PF.new_empty(slots, width)
    _down[(blocks.blocks * triton.cdiv(width, tile.columns),)](
        hidden_PF,
        blocks.slots_P,
        blocks.experts_p,
        weights_EDF,
        out_SD,
        blocks.blocks,
        *weights_EDF.stride()[:2],
        **_constants(width, hidden, tile, is_wide(hidden_PF.dtype)),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out_SD


def weighted_sum(slots_SD: Tensor, weights_MA: Tensor) -> Tensor:
    """slots [M * A, D], contiguous; weights [M, A] -> [M, D]: a token's rows, weighted and added in order, in FP32."""
    tokens, chosen = weights_MA.shape
    width = slots_SD.shape[1]
    out_MD = slots_SD.new_empty(tokens, width)
    block = min(SUM_BLOCK, triton.next_power_of_2(width))
    _weighted_sum[(tokens, triton.cdiv(width, block))](
        slots_SD, weights_MA, out_MD, weights_MA.stride(0), CHOSEN=chosen, WIDTH=width, BLOCK=block, num_warps=4
    )
    return out_MD


def _constants(width: int, hidden: int, tile: Tile, wide: bool) -> dict[str, int]:
    sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns, "INNER": tile.inner}
    return {"WIDTH": width, "HIDDEN": hidden, **sizes, "GROUP": GROUP, "WIDE": wide}


def builds(capability: Capability) -> Sequence[KernelBuild]:
    """V3's experts (8 of 256, 2,048 of 7,168 wide) for one token, a prompt, and many."""
    dtypes = ((torch.bfloat16, "bf16", (1, 2048, 16384)), (torch.float32, "fp32", (1, 2048)))
    products = [
        build
        for dtype, name, counts in dtypes
        for tokens in counts
        for build in _products(dtype, f"{name}/m{tokens}", configure(8 * tokens, 256, name == "fp32", capability))
    ]
    return products + [_sum_build(dtype, name) for dtype, name, _ in dtypes]


def _products(dtype: torch.dtype, name: str, config: Config) -> Sequence[KernelBuild]:
    value, wide = POINTERS[dtype], dtype == torch.float32
    shared = {"slots_ptr": "*i32", "owners_ptr": "*i32", "weights_ptr": value, "hidden_ptr": value, "blocks": "i32"}
    gate_up = {"x_ptr": value, **shared, **dict.fromkeys(("x_stride_m", "weights_stride_e", "weights_stride_x"), "i32")}
    down = {"out_ptr": value, **shared, **dict.fromkeys(("weights_stride_e", "weights_stride_d"), "i32")}
    return [
        KernelBuild(
            name=f"expert_{part}/{name}",
            operator="grouped_experts",
            kernel=kernel,
            signature=signature,
            constants=_constants(7168, 2048, tile, wide) | chosen,
            num_warps=tile.warps,
            num_stages=tile.stages,
            divisible_by_16=tuple(key for key in signature if key != "blocks"),
            matrix_product=not wide,
        )
        for part, kernel, signature, tile, chosen in (
            ("gate_up", _gate_up, gate_up, config.gate_up, {"CHOSEN": 8}),
            ("down", _down, down, config.down, {}),
        )
    ]


def _sum_build(dtype: torch.dtype, name: str) -> KernelBuild:
    pointers = {"slots_ptr": POINTERS[dtype], "weights_ptr": "*fp32", "out_ptr": POINTERS[dtype]}
    return KernelBuild(
        name=f"expert_sum/{name}",
        operator="grouped_experts",
        kernel=_weighted_sum,
        signature=pointers | {"weights_stride_m": "i32"},
        constants={"CHOSEN": 8, "WIDTH": 7168, "BLOCK": SUM_BLOCK},
        num_warps=4,
        divisible_by_16=tuple(pointers),
    )
