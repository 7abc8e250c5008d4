"""The numbers of the FP8 formats, as DeepSeek-V3 (arXiv 2412.19437, section 3.3) and V3.2-Exp define them.

E4M3 values with FP32 scales: one scale per 1 x 128 tile of activations, one per 128 x 128 block of weights, one per
128 values of a cached latent. The last tile or block of a row or column may be partial. Torch-free.

Packed rows, offsets in bytes, least significant byte first:

============  ==========================================================================================
latent row    C values in E4M3, then ceil(C/128) scales in FP32, then R values of the rotary key in BF16
index key     I values in E4M3 (rotated by the Hadamard transform), then one scale in FP32
============  ==========================================================================================

At V3.2's shape (C 512, R 64, I 128) these are 656 and 132 bytes.
"""

from __future__ import annotations

E4M3_MAX = 448.0
"""The largest number of E4M3; conversion saturates there."""

AMAX_FLOOR = 1e-4
"""The smallest largest-magnitude that a scale is made of, so that a group of zeros has a scale too."""

BLOCK = 128
"""Values that share a scale in each direction, unless a slot says otherwise."""

MATRIX_UNITS = (8, 9)
"""The first compute capability with matrix instructions for E4M3; below it FP8 products are emulated."""


def blocks(size: int) -> int:
    """How many blocks a row or column of `size` values has."""
    return -(-size // BLOCK)


def latent_row_bytes(latent: int, rope: int) -> int:
    """P, the bytes of a packed latent row of C = `latent` and R = `rope` values."""
    return latent + 4 * blocks(latent) + 2 * rope


def index_key_bytes(width: int) -> int:
    """Bytes of a packed index key of I = `width` values."""
    return width + 4
