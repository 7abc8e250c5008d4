"""Quantisation to E4M3 with a scale per group of values in a row, bit-equal to the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.e4m3 import has_units, quantise_rows
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, rows_of


@dataclass(frozen=True)
class Config:
    """Rows of a program; it takes one group of each."""

    rows: int
    num_warps: int


def configure(rows: int, group: int, capability: Capability | None) -> Config:
    """Few rows: one each, so that a decoded token's groups fill the GPU. Many: about 4,096 values a program."""
    if capability is None:
        return Config(rows=4, num_warps=1)
    if rows < 128:
        return Config(rows=1, num_warps=1)
    return Config(rows=max(1, 4096 // triton.next_power_of_2(group)), num_warps=4)


@triton.jit(do_not_specialize=["rows"])
def _quantise(
    x_ptr,
    values_ptr,
    scales_ptr,
    rows,
    columns,
    groups,
    x_stride,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    POWER_OF_TWO: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Grid: groups fastest, so that neighbouring programs read neighbouring values."""
    program = tl.program_id(0)
    group = program % groups
    row = (program // groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = tl.arange(0, WIDTH)
    column = group * GROUP + inside
    mask = (row < rows)[:, None] & ((inside < GROUP) & (column < columns))[None, :]
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=mask, other=0.0).to(tl.float32)
    codes, scales = quantise_rows(x, POWER_OF_TWO, UNITS)
    tl.store(values_ptr + row[:, None] * columns + column[None, :], codes, mask=mask)
    tl.store(scales_ptr + row * groups + group, scales, mask=row < rows)


def quantise(x: Tensor, group: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """See `Quantise`: x [..., K] -> E4M3 [..., K] and FP32 scales [..., ceil(K / group)]."""
    x_MK = rows_of(x)
    rows, columns = x_MK.shape
    groups = triton.cdiv(columns, group)
    values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(*x.shape[:-1], groups, dtype=torch.float32, device=x.device)
    if rows:
        target = capability(x)
        config = configure(rows, group, target)
        _quantise[(groups * triton.cdiv(rows, config.rows),)](
            x_MK,
            values.view(torch.uint8),
            scales,
            rows,
            columns,
            groups,
            x_MK.stride(0),
            **_constants(group, power_of_two, config, target),
            num_warps=config.num_warps,
        )
    return values, scales


def _constants(group: int, power_of_two: bool, config: Config, target: Capability | None) -> dict[str, int | bool]:
    return {
        "GROUP": group,
        "WIDTH": triton.next_power_of_2(group),
        "ROWS": config.rows,
        "POWER_OF_TWO": power_of_two,
        "UNITS": has_units(target),
    }


def builds(capability: Capability) -> list[KernelBuild]:
    """A decoded token and a prompt, 1 x 128, scales in FP32 and powers of two."""
    return [
        _build(rows, dtype, power_of_two, capability)
        for rows in (1, 4096)
        for dtype in (torch.bfloat16, torch.float32)
        for power_of_two in (False, True)
    ]


def _build(rows: int, dtype: torch.dtype, power_of_two: bool, capability: Capability) -> KernelBuild:
    config = configure(rows, 128, capability)
    scale = "ue8m0" if power_of_two else "fp32"
    return KernelBuild(
        name=f"quantise/{POINTERS[dtype][1:]}/{scale}/m{rows}",
        operator="quantise",
        kernel=_quantise,
        signature={
            "x_ptr": POINTERS[dtype],
            "values_ptr": "*u8",
            "scales_ptr": "*fp32",
            "rows": "i32",
            "columns": "i32",
            "groups": "i32",
            "x_stride": "i32",
        },
        constants=_constants(128, power_of_two, config, capability),
        num_warps=config.num_warps,
        divisible_by_16=("x_ptr", "values_ptr", "scales_ptr", "columns", "x_stride"),
    )
