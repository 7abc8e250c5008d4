"""FP8 quantisation and the block-scaled matrix product in plain PyTorch: the reference, and the emulation.

Emulated exactly: E4M3 values are multiplied as FP32 numbers, which holds their products without rounding, and sums
run in FP32 as FP8 matrix units' promoted ones do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.contract.fp8 import BLOCK
from harness.contract.fp8_tensors import quantise_groups
from harness.contract.operators import accumulation_dtype


def quantise(x: Tensor, group: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """See `Quantise`."""
    return quantise_groups(x, group, power_of_two)


def fp8_gemm(
    x_MK: Tensor, x_scales_Mk: Tensor, weight_NK: Tensor, weight_scales_nk: Tensor, dtype: torch.dtype
) -> Tensor:
    """See `Fp8Gemm`. One product per block of K, scaled and added, as the promotion of partial sums does it."""
    wide = accumulation_dtype(dtype)
    rows = weight_NK.shape[0]
    column_scales_kN = weight_scales_nk.to(wide).repeat_interleave(BLOCK, 0)[:rows].T
    total_MN = torch.zeros(x_MK.shape[0], rows, dtype=wide, device=x_MK.device)
    pieces = zip(x_MK.split(BLOCK, 1), weight_NK.split(BLOCK, 1), strict=True)
    for k, (x_MG, weight_NG) in enumerate(pieces):
        product_MN = torch.matmul(x_MG.to(wide), weight_NG.to(wide).T)
        total_MN += product_MN.mul_(x_scales_Mk[:, k : k + 1]).mul_(column_scales_kN[k])
    return total_MN.to(dtype)
