"""Packed FP8 rows in plain PyTorch: latents with their scales and rotary keys, and the indexer's keys, as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.contract.fp8 import BLOCK, blocks, latent_row_bytes
from harness.contract.fp8_tensors import hadamard_rotated, quantise_groups


def pack_latents(rows_BTL: Tensor, latent: int, power_of_two: bool) -> Tensor:
    """See `PackLatents`."""
    values_BTC, scales_BTc = quantise_groups(rows_BTL[..., :latent], BLOCK, power_of_two)
    return torch.cat([_bytes(values_BTC), _bytes(scales_BTc), _bytes(rows_BTL[..., latent:].bfloat16())], -1)


def unpack_latents(packed_BSP: Tensor, latent: int, rope: int, dtype: torch.dtype) -> Tensor:
    """See `UnpackLatents`."""
    scales_end = latent + 4 * blocks(latent)
    values_BSC = _numbers(packed_BSP[..., :latent], torch.float8_e4m3fn).float()
    scales_BSc = _numbers(packed_BSP[..., latent:scales_end], torch.float32)
    rope_BSR = _numbers(packed_BSP[..., scales_end : latent_row_bytes(latent, rope)], torch.bfloat16)
    latent_BSC = values_BSC * scales_BSc.repeat_interleave(BLOCK, -1)[..., :latent]
    return torch.cat([latent_BSC.to(dtype), rope_BSR.to(dtype)], -1)


def pack_index_keys(keys_BTI: Tensor) -> Tensor:
    """See `PackIndexKeys`."""
    values_BTI, scales_BT1 = quantise_groups(hadamard_rotated(keys_BTI.float()), keys_BTI.shape[-1], power_of_two=True)
    return torch.cat([_bytes(values_BTI), _bytes(scales_BT1)], -1)


def unpack_index_keys(packed_BSP: Tensor) -> tuple[Tensor, Tensor]:
    """What `pack_index_keys` packed: E4M3 values [B, S, I] and FP32 scales [B, S], still rotated."""
    width = packed_BSP.shape[-1] - 4
    values_BSI = _numbers(packed_BSP[..., :width], torch.float8_e4m3fn)
    return values_BSI, _numbers(packed_BSP[..., width:], torch.float32).squeeze(-1)


def _bytes(numbers: Tensor) -> Tensor:
    return numbers.contiguous().view(torch.uint8)


def _numbers(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes [..., n] read as `dtype`; copied, since a part of a row may start at any byte."""
    return raw.clone(memory_format=torch.contiguous_format).view(dtype)
