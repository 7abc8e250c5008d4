"""The FP8 product through `torch.nn.functional.scaled_mm` with the scales of DeepSeek-V3 (1 x 128 and 128 x 128)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.fp8 import BLOCK
from harness.contract.operators import Operators, reference_operators

ROWS = 4
"""cuBLASLt wants the scales' inner dimension in multiples of four FP32 numbers (16 bytes)."""
COLUMNS = 16
"""And rows of the weight in multiples of sixteen."""


def operators() -> Operators:
    """The reference, with torch's own product in the slot `fp8_gemm`."""
    eager = reference_operators()

    def remarks(capability: tuple[int, int] | None) -> Mapping[str, str]:
        return {slot: what for slot, what in eager.remarks(capability).items() if slot != "fp8_gemm"}

    return dataclasses.replace(eager, name="scaled_mm", fp8_gemm=fp8_gemm, remarks=remarks)


def fp8_gemm(
    x_MK: Tensor, x_scales_Mk: Tensor, weight_NK: Tensor, weight_scales_nk: Tensor, dtype: torch.dtype
) -> Tensor:
    """See `Fp8Gemm`. K a multiple of 128 and N of 16; raises ValueError for other sizes, and for FP64."""
    rows = x_MK.shape[0]
    x, scales = scaled_rows(x_MK, x_scales_Mk)
    return F.scaled_mm(
        x,
        _checked(weight_NK, dtype).t(),
        scales,
        F.ScalingType.BlockWise1x128,
        scaled_weight(weight_scales_nk),
        F.ScalingType.BlockWise128x128,
        output_dtype=dtype,
    )[:rows]


def scaled_rows(x_MK: Tensor, x_scales_Mk: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and their scales for a multiple of four rows, zeros behind them; the scales stored column by column."""
    missing = -x_MK.shape[0] % ROWS
    if missing:
        zeros = x_MK.new_zeros(missing, x_MK.shape[1], dtype=torch.uint8).view(x_MK.dtype)
        x_MK = torch.cat([x_MK.view(torch.uint8), zeros.view(torch.uint8)]).view(x_MK.dtype)
        x_scales_Mk = F.pad(x_scales_Mk, (0, 0, 0, missing))
    return x_MK.contiguous(), x_scales_Mk.t().contiguous().t()


def scaled_weight(weight_scales_nk: Tensor) -> Tensor:
    """Scales of the weight's blocks as [k, n], a multiple of four along K next to each other in memory."""
    return F.pad(weight_scales_nk, (0, -weight_scales_nk.shape[1] % ROWS)).contiguous().t()


def _checked(weight_NK: Tensor, dtype: torch.dtype) -> Tensor:
    rows, columns = weight_NK.shape
    if columns % BLOCK or rows % COLUMNS:
        raise ValueError(f"torch's block-scaled product takes K in multiples of {BLOCK} and N of {COLUMNS}, "
                         f"not K {columns} and N {rows}")  # fmt: skip
    if dtype == torch.float64:
        raise ValueError("torch's block-scaled product has no FP64; the reference has (kernels eager)")
    return weight_NK.contiguous()
