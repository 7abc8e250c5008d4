"""FP8 tensors in plain PyTorch: the conversions that every option has to agree on bit by bit.

Weights are quantised here and nowhere else, so that all kernel sets compute with the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.fp8 import AMAX_FLOOR, BLOCK, E4M3_MAX, blocks


@dataclass(frozen=True)
class BlockScaled:
    """A weight [N, K] as FP8 checkpoints hold it: E4M3 values, and what every block of them is multiplied with."""

    values: Tensor
    """E4M3 [N, K]."""
    scales: Tensor
    """FP32 [ceil(N / block[0]), ceil(K / block[1])], `weight_scale_inv` on disk; the last blocks may be partial."""
    block: tuple[int, int] = (BLOCK, BLOCK)

    def dense(self) -> Tensor:
        """FP32 [N, K]: values times scales (DeepSeek-V3, README_WEIGHTS)."""
        rows, columns = self.values.shape
        scales_Nk = self.scales.float().repeat_interleave(self.block[0], 0)[:rows]
        return self.values.float() * scales_Nk.repeat_interleave(self.block[1], 1)[:, :columns]


def quantise_groups(x: Tensor, group: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
    """The reference of slot `Quantise`, which see: E4M3 values [..., K] and FP32 scales [..., ceil(K / group)]."""
    groups_XkG = F.pad(x.float(), (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    scales_Xk = groups_XkG.abs().amax(-1).clamp(min=AMAX_FLOOR) / E4M3_MAX
    if power_of_two:
        scales_Xk = round_up_to_power_of_two(scales_Xk)
    # No clamp: a quotient exceeds 448 by one rounding at most, and 448 is the nearest E4M3 number up to 464.
    values = (groups_XkG / scales_Xk[..., None]).to(torch.float8_e4m3fn)
    return values.flatten(-2)[..., : x.shape[-1]].contiguous(), scales_Xk


def round_up_to_power_of_two(scales: Tensor) -> Tensor:
    """The smallest power of two that is not below each (positive, normal) number; exact."""
    mantissa, exponent = torch.frexp(scales)  # scales = mantissa * 2^exponent, mantissa in [0.5, 1)
    rounded = torch.ldexp(torch.ones_like(scales), exponent - (mantissa == 0.5).int())
    return rounded.where(scales.isfinite(), scales)


def quantise_blocks(weight_NK: Tensor, power_of_two: bool) -> BlockScaled:
    """A weight with one scale per 128 x 128 block, made as those of activations are."""
    rows, columns = weight_NK.shape
    n, k = blocks(rows), blocks(columns)
    whole = F.pad(weight_NK.float(), (0, k * BLOCK - columns, 0, n * BLOCK - rows))
    blocks_nkX = whole.view(n, BLOCK, k, BLOCK).transpose(1, 2).flatten(2)
    values_nkX, scales_nk1 = quantise_groups(blocks_nkX, BLOCK * BLOCK, power_of_two)
    values = values_nkX.view(n, k, BLOCK, BLOCK).transpose(1, 2).reshape(n * BLOCK, k * BLOCK)
    return BlockScaled(values[:rows, :columns].contiguous(), scales_nk1.squeeze(-1).contiguous())


def are_powers_of_two(scales: Tensor) -> bool:
    """Whether every scale is a positive power of two."""
    return bool(((torch.frexp(scales.float()).mantissa == 0.5) & (scales > 0)).all())


def hadamard_rotated(x: Tensor) -> Tensor:
    """x [..., I] times the orthonormal Hadamard matrix in Sylvester's order, I a power of two; its own inverse.

    Spreads an outlier over all values and keeps dot products (QuaRot, arXiv 2404.00456, section 3).
    """
    hadamard_II = torch.ones(1, 1, dtype=x.dtype, device=x.device)
    while hadamard_II.shape[0] < x.shape[-1]:
        hadamard_II = torch.cat([hadamard_II.repeat(1, 2), torch.cat([hadamard_II, -hadamard_II], 1)])
    return torch.matmul(x, hadamard_II) * x.shape[-1] ** -0.5


def calc_diff(given: Tensor, wanted: Tensor) -> float:
    """1 - 2 x.y / (x.x + y.y) in FP64, the measure of DeepSeek's tolerance ladder (DeepGEMM's tests)."""
    x, y = given.double().flatten(), wanted.double().flatten()
    return float(1 - 2 * torch.dot(x, y) / (torch.dot(x, x) + torch.dot(y, y)))
