"""The indexer's keys and queries in FP8: rotated by a Hadamard transform, quantised with one scale a row.

Keys become packed rows, 132 bytes at V3.2's shape; queries values and scales apart, so that their loads are aligned.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.fp8 import index_key_bytes
from harness_plugins.triton_kernels.e4m3 import has_units, quantise_rows, rotate_rows
from harness_plugins.triton_kernels.launch import POINTERS, Capability, capability, rows_of

FEW = 256
"""Up to so many rows a program takes one."""


def configure(rows: int, capability: Capability | None) -> tuple[int, int]:
    """Rows and warps of a program."""
    if capability is None:
        return 4, 1
    return (1, 1) if rows <= FEW else (16, 4)


@triton.jit(do_not_specialize=["rows"])
def _rotate_and_quantise(
    x_ptr,
    codes_ptr,
    scales_ptr,
    rows,
    x_stride,
    CODES_STRIDE: tl.constexpr,
    SCALES_STRIDE: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
):
    """Rows of 2**BITS values to codes and power-of-two scales, whose rows lie the given strides apart."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 1 << BITS)
    mask = (row < rows)[:, None]
    x = tl.load(x_ptr + (row * x_stride)[:, None] + column[None, :], mask, other=0.0).to(tl.float32)
    codes, scales = quantise_rows(rotate_rows(x, ROWS, BITS), True, UNITS)
    tl.store(codes_ptr + (row * CODES_STRIDE)[:, None] + column[None, :], codes, mask)
    tl.store(scales_ptr + row * SCALES_STRIDE, scales, row < rows)


def pack_index_keys(keys_BTI: Tensor) -> Tensor:
    """See `PackIndexKeys`: keys [B, T, I] -> uint8 [B, T, I + 4]. ValueError unless I is a power of two from 4 on."""
    width = keys_BTI.shape[-1]
    packed = torch.empty(*keys_BTI.shape[:-1], index_key_bytes(width), dtype=torch.uint8, device=keys_BTI.device)
    _launch(keys_BTI, packed[..., :width], packed[..., width:])
    return packed


def quantise_queries(q_BTGI: Tensor) -> tuple[Tensor, Tensor]:
    """Queries as keys are packed: E4M3 [B, T, G, I] and FP32 scales [B, T, G]."""
    codes = torch.empty(q_BTGI.shape, dtype=torch.uint8, device=q_BTGI.device)
    scales = torch.empty(q_BTGI.shape[:-1], dtype=torch.float32, device=q_BTGI.device)
    _launch(q_BTGI, codes, scales[..., None].view(torch.uint8))
    return codes.view(torch.float8_e4m3fn), scales


def _launch(x: Tensor, codes: Tensor, scale_bytes: Tensor) -> None:
    width = x.shape[-1]
    if width < 4 or width.bit_count() != 1:
        raise ValueError(f"FP8 index keys are {width} wide; allowed: a power of two (Hadamard transform) from 4 on")
    if not x.numel():
        return
    x_MI, target = rows_of(x), capability(x)
    count, warps = configure(x_MI.shape[0], target)
    _rotate_and_quantise[(triton.cdiv(x_MI.shape[0], count),)](
        x_MI,
        codes,
        scale_bytes.view(torch.float32),
        x_MI.shape[0],
        x_MI.stride(0),
        **_constants(width, codes.stride(-2), scale_bytes.stride(-2) // 4, count, target),
        num_warps=warps,
    )


def _constants(width: int, codes: int, scales: int, rows: int, capability: Capability | None) -> dict[str, int]:
    return {
        "CODES_STRIDE": codes,
        "SCALES_STRIDE": scales,
        "BITS": width.bit_length() - 1,
        "ROWS": rows,
        "UNITS": has_units(capability),
    }


def builds(capability: Capability) -> list[KernelBuild]:
    """V3.2's keys and queries of 128: one token's, and a prompt's."""
    return [
        _build(what, strides, rows, dtype, capability)
        for what, strides in (("keys", (132, 33)), ("queries", (128, 1)))
        for rows in (1, 4096)
        for dtype in (torch.bfloat16, torch.float32)
    ]


def _build(what: str, strides: tuple[int, int], rows: int, dtype: torch.dtype, capability: Capability) -> KernelBuild:
    count, warps = configure(rows, capability)
    return KernelBuild(
        name=f"pack_index_{what}/{POINTERS[dtype][1:]}/m{rows}",
        operator="pack_index_keys" if what == "keys" else "fp8_index_scores",
        kernel=_rotate_and_quantise,
        signature={
            "x_ptr": POINTERS[dtype],
            "codes_ptr": "*u8",
            "scales_ptr": "*fp32",
            "rows": "i32",
            "x_stride": "i32",
        },
        constants=_constants(128, *strides, count, capability),
        num_warps=warps,
        divisible_by_16=("x_ptr", "codes_ptr", "scales_ptr", "x_stride"),
    )
