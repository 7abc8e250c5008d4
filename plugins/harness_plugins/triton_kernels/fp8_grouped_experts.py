"""Routed experts with FP8 stacks: as `grouped_experts.py`, with block-scaled products and quantisation between them.

Gate and up of 128 hidden values are one tile: they are one group of the second product's left operand, which is
quantised before it leaves the registers. Rows of the same token are gathered from one quantised x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.fp8 import BLOCK, blocks
from harness_plugins.triton_kernels.e4m3 import has_units, operand, quantise_rows
from harness_plugins.triton_kernels.expert_blocks import ExpertBlocks, expert_blocks
from harness_plugins.triton_kernels.fp8_gemm import load_step, product, zeros_after
from harness_plugins.triton_kernels.grouped_experts import GROUP, weighted_sum
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, rounded
from harness_plugins.triton_kernels.quantise import quantise


@dataclass(frozen=True)
class Config:
    """Rows of a block, and the launch of both products; their tiles are 128 columns wide."""

    rows: int
    num_warps: int
    num_stages: int


def configure(slots: int, experts: int, capability: Capability | None) -> Config:
    """By how many rows an expert has when all have equally many."""
    if capability is None:
        return Config(16, num_warps=1, num_stages=1)
    if slots <= 16 * min(experts, slots):
        return Config(16, num_warps=4, num_stages=4)
    if not has_units(capability):
        return Config(32, num_warps=8, num_stages=3)  # decoded weights leave no room for the results of 64 rows
    return Config(64, num_warps=4 if capability[0] == 9 else 8, num_stages=2)


@triton.jit
def _place(program, row_blocks, column_blocks, GROUP_ROWS: tl.constexpr):
    """Block of rows and of columns of a program: several blocks of rows side by side, which share weights in L2."""
    band = program // (GROUP_ROWS * column_blocks)
    within = program % (GROUP_ROWS * column_blocks)
    height = tl.minimum(row_blocks - band * GROUP_ROWS, GROUP_ROWS)
    return band * GROUP_ROWS + within % height, within // height


@triton.jit(do_not_specialize=["row_blocks"])
def _gate_up(
    x_ptr,
    x_scales_ptr,
    slots_ptr,
    owners_ptr,
    weights_ptr,
    weight_scales_ptr,
    hidden_ptr,
    hidden_scales_ptr,
    row_blocks,
    weights_stride_e,
    weights_stride_x,
    CHOSEN: tl.constexpr,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    dtype: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Codes [P, HIDDEN] and scales [P, ceil(HIDDEN / 128)] of silu(gate) * up, from x [M, WIDTH] and its scales.

    Weight scales are [E, 2, ceil(HIDDEN / 128), ceil(WIDTH / 128)], contiguous. gate, up and the result are rounded to
    `dtype`, as they would be between separate operators.
    """
    steps: tl.constexpr = (WIDTH + STEP - 1) // STEP
    groups: tl.constexpr = (HIDDEN + STEP - 1) // STEP
    block, group = _place(tl.program_id(0), row_blocks, groups, GROUP_ROWS)
    expert = tl.load(owners_ptr + block).to(tl.int64)
    if expert < 0:
        return
    row = block * ROWS + tl.arange(0, ROWS)
    token = tl.maximum(tl.load(slots_ptr + row), 0).to(tl.int64) // CHOSEN  # padding computes token 0: nobody reads it
    column = tl.arange(0, STEP) + group * STEP
    x_rows = x_ptr + token * WIDTH
    x_scales = x_scales_ptr + token * steps
    weight_rows = (
        weights_ptr + expert * weights_stride_e + tl.minimum(column, HIDDEN - 1).to(tl.int64) * weights_stride_x
    )
    gate_scales = weight_scales_ptr + (expert * 2 * groups + group) * steps
    up_scales = gate_scales + groups * steps

    gate = tl.zeros((ROWS, STEP), tl.float32)
    up = tl.zeros((ROWS, STEP), tl.float32)
    nothing = tl.zeros((ROWS, STEP), tl.float32)
    for step in range(0, steps):
        x_scale = tl.load(x_scales + step)
        x = load_step(x_rows, step, WIDTH, WIDTH % STEP == 0)
        weight = load_step(weight_rows, step, WIDTH, WIDTH % STEP == 0)
        gate += product(x, weight, nothing, UNITS) * (x_scale * tl.load(gate_scales + step))[:, None]
        weight = load_step(weight_rows + HIDDEN * weights_stride_x, step, WIDTH, WIDTH % STEP == 0)
        up += product(x, weight, zeros_after(gate), UNITS) * (x_scale * tl.load(up_scales + step))[:, None]

    gate, up = rounded(gate, dtype).to(tl.float32), rounded(up, dtype).to(tl.float32)
    hidden = rounded(gate * tl.sigmoid(gate) * up, dtype).to(tl.float32)
    inside = (column < HIDDEN)[None, :]
    codes, scales = quantise_rows(tl.where(inside, hidden, 0.0), POWER_OF_TWO, UNITS)
    place = row.to(tl.int64)
    tl.store(hidden_ptr + place[:, None] * HIDDEN + column[None, :], codes, mask=inside)
    tl.store(hidden_scales_ptr + place * groups + group, scales)


@triton.jit(do_not_specialize=["row_blocks"])
def _down(
    hidden_ptr,
    hidden_scales_ptr,
    slots_ptr,
    owners_ptr,
    weights_ptr,
    weight_scales_ptr,
    out_ptr,
    row_blocks,
    weights_stride_e,
    weights_stride_d,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """out [MA, WIDTH], by slot, from hidden [P, HIDDEN], by row; scales [E, ceil(WIDTH/128), ceil(HIDDEN/128)]."""
    steps: tl.constexpr = (HIDDEN + STEP - 1) // STEP
    tiles: tl.constexpr = (WIDTH + STEP - 1) // STEP
    block, tile = _place(tl.program_id(0), row_blocks, tiles, GROUP_ROWS)
    expert = tl.load(owners_ptr + block).to(tl.int64)
    if expert < 0:
        return
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, STEP) + tile * STEP
    hidden_rows = hidden_ptr + row * HIDDEN
    hidden_scales = hidden_scales_ptr + row * steps
    weight_rows = (
        weights_ptr + expert * weights_stride_e + tl.minimum(column, WIDTH - 1).to(tl.int64) * weights_stride_d
    )
    weight_scales = weight_scales_ptr + (expert * tiles + tile) * steps

    out = tl.zeros((ROWS, STEP), tl.float32)
    nothing = tl.zeros((ROWS, STEP), tl.float32)
    for step in range(0, steps):
        scale = tl.load(hidden_scales + step) * tl.load(weight_scales + step)
        hidden = load_step(hidden_rows, step, HIDDEN, HIDDEN % STEP == 0)
        weight = load_step(weight_rows, step, HIDDEN, HIDDEN % STEP == 0)
        out += product(hidden, weight, nothing, UNITS) * scale[:, None]

    slot = tl.load(slots_ptr + row).to(tl.int64)
    out_at = out_ptr + slot[:, None] * WIDTH + column[None, :]
    tl.store(out_at, rounded(out, out_ptr.dtype.element_ty), mask=(slot >= 0)[:, None] & (column < WIDTH)[None, :])


def fp8_grouped_experts(
    x_MD: Tensor,
    experts_MA: Tensor,
    weights_MA: Tensor,
    gate_up_EXD: Tensor,
    gate_up_scales_E2fd: Tensor,
    down_EDF: Tensor,
    down_scales_Edf: Tensor,
    power_of_two: bool,
) -> Tensor:
    """See `Fp8GroupedExperts`: x [M, D], experts and weights [M, A], E4M3 stacks [E, 2F, D] and [E, D, F] -> [M, D]."""
    if not x_MD.numel():
        return torch.empty_like(x_MD)
    experts, target = down_EDF.shape[0], capability(x_MD)
    config = configure(experts_MA.numel(), experts, target)
    sorted_rows = expert_blocks(experts_MA, experts, config.rows)
    given = quantise(x_MD, BLOCK, power_of_two)
    first = _Stack(gate_up_EXD, gate_up_scales_E2fd.contiguous(), config, target)
    second = _Stack(down_EDF, down_scales_Edf.contiguous(), config, target)
    hidden = _launch_gate_up(given, sorted_rows, first, experts_MA.shape[1], x_MD.dtype, power_of_two)
    slots_SD = x_MD.new_empty(experts_MA.numel(), x_MD.shape[1])
    _launch_down(hidden, sorted_rows, second, slots_SD)
    return weighted_sum(slots_SD, weights_MA)


@dataclass(frozen=True)
class _Stack:
    """The weights of one product of all experts, and how it is launched."""

    weights: Tensor
    scales: Tensor
    config: Config
    target: Capability | None

    @property
    def launch(self) -> dict[str, int]:
        return {"num_warps": self.config.num_warps, "num_stages": self.config.num_stages}


def _launch_gate_up(
    given: tuple[Tensor, Tensor],
    sorted_rows: ExpertBlocks,
    stack: _Stack,
    chosen: int,
    dtype: torch.dtype,
    power_of_two: bool,
) -> tuple[Tensor, Tensor]:
    """Codes [P, F] in E4M3 and their scales [P, ceil(F / 128)]."""
    (x_MD, x_scales_Md), units = given, has_units(stack.target)
    width, hidden = x_MD.shape[1], stack.weights.shape[1] // 2
    rows = sorted_rows.slots_P.shape[0]
    codes = torch.empty(rows, hidden, dtype=torch.uint8, device=x_MD.device)
    scales = x_scales_Md.new_empty(rows, blocks(hidden))
    _gate_up[(sorted_rows.blocks * blocks(hidden),)](
        operand(x_MD, units),
        x_scales_Md,
        sorted_rows.slots_P,
        sorted_rows.experts_p,
        operand(stack.weights, units),
        stack.scales,
        codes,
        scales,
        sorted_rows.blocks,
        *stack.weights.stride()[:2],
        CHOSEN=chosen,
        dtype=TYPES[dtype],
        POWER_OF_TWO=power_of_two,
        **_constants(width, hidden, stack.config, stack.target),
        **stack.launch,
    )
    return codes.view(torch.float8_e4m3fn), scales


def _launch_down(hidden: tuple[Tensor, Tensor], sorted_rows: ExpertBlocks, stack: _Stack, out_SD: Tensor) -> None:
    (hidden_PF, scales_Pf), units = hidden, has_units(stack.target)
    width = out_SD.shape[1]
    _down[(sorted_rows.blocks * blocks(width),)](
        operand(hidden_PF, units),
        scales_Pf,
        sorted_rows.slots_P,
        sorted_rows.experts_p,
        operand(stack.weights, units),
        stack.scales,
        out_SD,
        sorted_rows.blocks,
        *stack.weights.stride()[:2],
        **_constants(width, hidden_PF.shape[1], stack.config, stack.target),
        **stack.launch,
    )


TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Triton's name of a dtype that results between operators are rounded to."""


def _constants(width: int, hidden: int, config: Config, capability: Capability | None) -> dict[str, Any]:
    sizes = {"WIDTH": width, "HIDDEN": hidden, "ROWS": config.rows, "STEP": BLOCK, "GROUP_ROWS": GROUP}
    return {**sizes, "UNITS": has_units(capability)}


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's experts (8 of 256, 2,048 of 7,168 wide) for one token and a prompt."""
    return [
        build
        for tokens in (1, 4096)
        for build in _products(configure(8 * tokens, 256, capability), f"m{tokens}", capability)
    ]


def _products(config: Config, name: str, capability: Capability) -> list[KernelBuild]:
    e4m3 = "*fp8e4nv" if has_units(capability) else "*u8"
    stack = {"slots_ptr": "*i32", "owners_ptr": "*i32", "weights_ptr": e4m3, "weight_scales_ptr": "*fp32"}
    counts = {"row_blocks": "i32", "weights_stride_e": "i32"}
    gate_up = {"x_ptr": e4m3, "x_scales_ptr": "*fp32", **stack, "hidden_ptr": "*u8", "hidden_scales_ptr": "*fp32"}
    down = {"hidden_ptr": e4m3, "hidden_scales_ptr": "*fp32", **stack, "out_ptr": POINTERS[torch.bfloat16]}
    extra = {"CHOSEN": 8, "dtype": tl.bfloat16, "POWER_OF_TWO": False}
    return [
        KernelBuild(
            name=f"fp8_expert_{part}/{name}",
            operator="fp8_grouped_experts",
            kernel=kernel,
            signature={**pointers, **counts, stride: "i32"},
            constants=_constants(7168, 2048, config, capability) | constants,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            divisible_by_16=(*pointers, "weights_stride_e", stride),
            matrix_product=True,
        )
        for part, kernel, pointers, stride, constants in (
            ("gate_up", _gate_up, gate_up, "weights_stride_x", extra),
            ("down", _down, down, "weights_stride_d", {}),
        )
    ]
