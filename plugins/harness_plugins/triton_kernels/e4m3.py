"""E4M3 numbers inside kernels: from and to FP32, block scales, and the Hadamard rotation.

GPUs before sm_89 have no E4M3 conversions, Triton refuses the type there, and its interpreter rounds such casts
wrongly. So every kernel takes E4M3 tensors that it only converts as bytes, and a constexpr `UNITS`: with it the
hardware converts, without it integer arithmetic does, to the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.fp8 import AMAX_FLOOR, E4M3_MAX, MATRIX_UNITS
from harness_plugins.triton_kernels.launch import Capability

FLOOR = tl.constexpr(AMAX_FLOOR)
LARGEST = tl.constexpr(E4M3_MAX)


def has_units(capability: Capability | None) -> bool:
    """Whether the hardware converts and multiplies E4M3 numbers; an interpreted kernel (None) emulates them."""
    return capability is not None and capability >= MATRIX_UNITS


def operand(values: Tensor, units: bool) -> Tensor:
    """An E4M3 tensor as a kernel takes it for a matrix product: as it is, or as bytes where there are no units."""
    return values if units else values.view(torch.uint8)


@triton.jit
def encode(x, UNITS: tl.constexpr):
    """FP32 -> uint8: the bits of E4M3, rounded to nearest even, saturating; NaN stays NaN."""
    if UNITS:
        code = x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        bits = x.to(tl.uint32, bitcast=True)
        magnitude = bits & 0x7FFFFFFF
        # 20 mantissa bits go: add just under half of what the last kept one is worth, and the tie's odd bit.
        normal = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
        normal = tl.minimum(normal, 1086) - 960  # 120 exponents less; 126 is the code of 448
        # Next to 2^14 an FP32 number keeps multiples of 2^-9, which is what E4M3 keeps below 2^-6.
        small = (magnitude.to(tl.float32, bitcast=True) + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
        code = tl.where(magnitude < 0x3C800000, small, normal)
        code = tl.where(magnitude > 0x7F800000, 0x7F, code)
        code = (code | ((bits >> 24) & 0x80)).to(tl.uint8)
    return code


@triton.jit
def decode(code, UNITS: tl.constexpr):
    """E4M3, or its bits as uint8 -> FP16, exact; NaN stays NaN."""
    if UNITS:
        value = code.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:
        bits = code.to(tl.uint16)
        # E4M3's exponent bias is 8 less than FP16's; the product is exact, for subnormal numbers too.
        value = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
        value = tl.where((bits & 0x7F) == 0x7F, float("nan"), value)
    return value


@triton.jit
def amax(x, axis: tl.constexpr):
    """The largest magnitude of FP32 numbers along an axis; NaN if there is one (its bits are the largest)."""
    return tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis).to(tl.float32, bitcast=True)


@triton.jit
def block_scale(largest, POWER_OF_TWO: tl.constexpr):
    """The scale of a block whose largest magnitude is `largest`, as `Quantise` defines it."""
    floored = tl.where(largest < FLOOR, FLOOR, largest)
    scale = tl.math.div_rn(floored, tl.full(floored.shape, LARGEST, tl.float32))
    if POWER_OF_TWO:
        rounded = (scale.to(tl.uint32, bitcast=True) + 0x7FFFFF) & 0xFF800000
        scale = tl.where(scale < float("inf"), rounded.to(tl.float32, bitcast=True), scale)
    return scale


@triton.jit
def quantise_rows(x, POWER_OF_TWO: tl.constexpr, UNITS: tl.constexpr):
    """FP32 [M, G] -> the bits of E4M3 [M, G] and a scale for every row [M]."""
    scale = block_scale(amax(x, 1), POWER_OF_TWO)
    quotient = tl.math.div_rn(x, tl.broadcast_to(scale[:, None], x.shape))
    return encode(quotient, UNITS), scale


@triton.jit
def rotate_rows(x, ROWS: tl.constexpr, BITS: tl.constexpr):
    """FP32 [ROWS, 2**BITS] times the orthonormal Hadamard matrix in Sylvester's order.

    One butterfly for every bit of a column's number, on its lowest bit; putting the result back as the highest bit
    brings the next one down, and after all of them every bit is in its place again.
    """
    for _ in tl.static_range(BITS):
        even, odd = tl.split(tl.reshape(x, [ROWS, 1 << (BITS - 1), 2]))
        joined = tl.join(even + odd, even - odd)
        x = tl.reshape(tl.permute(joined, [0, 2, 1]), [ROWS, 1 << BITS])
    return x * (1 << BITS) ** -0.5
