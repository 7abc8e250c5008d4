"""Packed FP8 rows as kernels see them: every part of a row under a pointer of its own type (`harness.contract.fp8`).

The stride of rows is a constant of a kernel: from it the compiler knows how far loads are aligned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.fp8 import BLOCK, blocks, latent_row_bytes
from harness_plugins.triton_kernels.e4m3 import decode
from harness_plugins.triton_kernels.launch import rounded


@dataclass(frozen=True)
class LatentRows:
    """Views into packed latent rows [B, S, P]."""

    codes_BSC: Tensor
    """uint8: the bits of E4M3."""
    scales_BSc: Tensor
    rope_BSR: Tensor
    row: int
    """Bytes from one row to the next."""
    sequence: int
    """Rows from one sequence to the next."""

    @classmethod
    def of(cls, packed_BSP: Tensor, latent: int, rope: int) -> LatentRows:
        """Copies first where sequences are no whole number of rows, or a row no whole number of scales, apart."""
        row, apart = packed_BSP.stride(1), packed_BSP.stride(0)
        if row % 4 or packed_BSP.storage_offset() % 4 or (apart % row if row else True):
            packed_BSP = packed_BSP.clone(memory_format=torch.contiguous_format)
            row, apart = packed_BSP.stride(1), packed_BSP.stride(0)
        scales = latent + 4 * blocks(latent)
        return cls(
            packed_BSP[..., :latent],
            packed_BSP[..., latent:scales].view(torch.float32),
            packed_BSP[..., scales : latent_row_bytes(latent, rope)].view(torch.bfloat16),
            row,
            apart // row,
        )


def latent_constants(row: int, latent: int, rope: int) -> dict[str, int]:
    """Sizes of a packed row for a kernel: bytes to the next one, widths, and the powers of two that hold them."""
    block_latent = max(16, triton.next_power_of_2(latent))
    return {
        "ROW": row,
        "LATENT": latent,
        "ROPE": rope,
        "BLOCK_LATENT": block_latent,
        "BLOCK_ROPE": max(16, triton.next_power_of_2(rope)),
        "GROUP": min(BLOCK, block_latent),
    }


@triton.jit
def load_latents(
    codes_at,
    scales_at,
    there,
    dtype: tl.constexpr,
    LATENT: tl.constexpr,
    BLOCK_LATENT: tl.constexpr,
    GROUP: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Latents [S, BLOCK_LATENT] in `dtype` from pointers [S] to rows' codes and scales; zeros where not `there` [S]."""
    groups: tl.constexpr = BLOCK_LATENT // GROUP
    column, group = tl.arange(0, BLOCK_LATENT), tl.arange(0, groups)
    mask, scale_mask = there[:, None], there[:, None]
    if LATENT != BLOCK_LATENT:
        mask = mask & (column < LATENT)[None, :]
        scale_mask = scale_mask & (group * GROUP < LATENT)[None, :]
    codes = tl.load(codes_at[:, None] + column[None, :], mask, other=0)
    scales = tl.load(scales_at[:, None] + group[None, :], scale_mask, other=0.0)
    spread = tl.broadcast_to(scales[:, :, None], [scales.shape[0], groups, GROUP])
    values = decode(codes, UNITS).to(tl.float32) * tl.reshape(spread, [scales.shape[0], BLOCK_LATENT])
    return rounded(values, dtype)
