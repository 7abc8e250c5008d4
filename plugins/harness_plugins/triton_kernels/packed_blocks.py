"""Configurations of attention over packed latent rows."""

from __future__ import annotations

from typing import Any

import torch

from harness_plugins.triton_kernels.e4m3 import has_units
from harness_plugins.triton_kernels.latent_blocks import LatentBlocks, constants, latent_blocks
from harness_plugins.triton_kernels.launch import Capability
from harness_plugins.triton_kernels.packed_rows import Layout, latent_constants

HOPPER = LatentBlocks(64, 64, 8, 2)
BLACKWELL = LatentBlocks(64, 32, 8, 2)
AMPERE = LatentBlocks(16, 32, 8, 2)
"""More query rows, or fewer warps, and the decoded keys spill registers."""


def packed_blocks(dtype: torch.dtype, capability: Capability | None) -> LatentBlocks:
    """The configuration for queries of `dtype` on hardware of `capability` (None: interpreted)."""
    if capability is None or dtype == torch.float32:
        return latent_blocks(dtype, capability)
    if capability[0] in (9, 10):
        return HOPPER if capability[0] == 9 else BLACKWELL
    return AMPERE if capability in ((8, 0), (8, 7)) else latent_blocks(dtype, capability)


def attention_constants(
    layout: Layout, heads: int, blocks: LatentBlocks, split: bool, dtype: torch.dtype, capability: Capability | None
) -> dict[str, Any]:
    """What both attention kernels over packed rows are compiled for."""
    return {
        **constants(heads, layout.latent, layout.rope, blocks, split, dtype),
        **latent_constants(layout),
        "UNITS": has_units(capability),
    }
