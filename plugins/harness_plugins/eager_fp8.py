"""FP8 quantisation and the block-scaled matrix product in plain PyTorch: the reference, and the emulation.

Emulated exactly: E4M3 values are multiplied as FP32 numbers, which holds their products without rounding, and sums
run in FP32 as FP8 matrix units' promoted ones do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.fp8 import AMAX_FLOOR, BLOCK, E4M3_MAX
from harness.contract.operators import accumulation_dtype


def quantise(x: Tensor, group: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """See `Quantise`."""
    groups_XkG = F.pad(x.float(), (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    scales_Xk = groups_XkG.abs().amax(-1).clamp(min=AMAX_FLOOR) / E4M3_MAX
    if power_of_two:
        scales_Xk = round_up_to_power_of_two(scales_Xk)
    values = (groups_XkG / scales_Xk[..., None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return values.flatten(-2)[..., : x.shape[-1]].contiguous(), scales_Xk


def round_up_to_power_of_two(scales: Tensor) -> Tensor:
    """The smallest power of two that is not below each (positive, normal) number; exact."""
    mantissa, exponent = torch.frexp(scales)  # scales = mantissa * 2^exponent, mantissa in [0.5, 1)
    return torch.ldexp(torch.ones_like(scales), exponent - (mantissa == 0.5).int()).where(scales.isfinite(), scales)


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
