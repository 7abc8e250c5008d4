"""Packed FP8 rows as kernels see them: every part of a row under a pointer of its own type (`harness.contract.fp8`).

The stride of rows is a constant of a kernel: from it the compiler knows how far loads are aligned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.fp8 import BLOCK, blocks, latent_row_bytes
from harness_plugins.triton_kernels.e4m3 import decode
from harness_plugins.triton_kernels.launch import rounded

FIELDS = {"codes_ptr": "*u8", "scales_ptr": "*fp32", "rope_ptr": "*bf16"}
"""The parts of a latent row as arguments of a kernel: names and types, for `KernelBuild.signature`."""


@dataclass(frozen=True)
class Layout:
    """Of packed latent rows in memory."""

    latent: int
    rope: int
    row: int
    """Bytes from one row to the next."""


V3 = Layout(latent=512, rope=64, row=latent_row_bytes(512, 64))


@dataclass(frozen=True)
class LatentRows:
    """Views into packed latent rows [B, S, P]."""

    codes_BSC: Tensor
    """uint8: the bits of E4M3."""
    scales_BSc: Tensor
    rope_BSR: Tensor
    layout: Layout
    sequence: int
    """Rows from one sequence to the next."""

    @property
    def fields(self) -> tuple[Tensor, Tensor, Tensor]:
        """As kernels take them, see `FIELDS`."""
        return self.codes_BSC, self.scales_BSc, self.rope_BSR


def latent_rows(packed_BSP: Tensor, latent: int, rope: int) -> LatentRows:
    """The parts of packed rows."""
    packed_BSP, row, sequence = whole_rows(packed_BSP)
    scales, end = latent + 4 * blocks(latent), latent_row_bytes(latent, rope)
    return LatentRows(
        packed_BSP[..., :latent],
        packed_BSP[..., latent:scales].view(torch.float32),
        packed_BSP[..., scales:end].view(torch.bfloat16),
        Layout(latent, rope, row),
        sequence,
    )


def whole_rows(packed_BSP: Tensor) -> tuple[Tensor, int, int]:
    """Packed rows, the bytes from one to the next, and the rows from one sequence to the next.

    Copies them first where sequences are no whole number of rows apart, or rows no whole number of scales. Raises
    ValueError for rows that are not as long as whole FP32 scales.
    """
    apart, row = packed_BSP.stride()[:2]
    if packed_BSP.shape[-1] % 4:
        raise ValueError(f"packed rows have {packed_BSP.shape[-1]} bytes; allowed: a multiple of 4, as scales have")
    if packed_BSP.shape[0] == 1:
        apart = 0
    if row == 0 or row % 4 or packed_BSP.storage_offset() % 4 or apart % row:
        return whole_rows(packed_BSP.clone(memory_format=torch.contiguous_format))
    return packed_BSP, row, apart // row


def latent_constants(layout: Layout) -> dict[str, Any]:
    """Sizes of a packed row for a kernel: bytes to the next one, widths, and the powers of two that hold them."""
    block_latent = max(16, triton.next_power_of_2(layout.latent))
    return {
        "ROW": layout.row,
        "LATENT": layout.latent,
        "ROPE": layout.rope,
        "BLOCK_LATENT": block_latent,
        "BLOCK_ROPE": max(16, triton.next_power_of_2(layout.rope)),
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
