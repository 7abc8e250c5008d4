"""RMS norm, with and without a residual sum: one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.launch import POINTERS, Capability, rounded, rows_of

ELEMENTS = 1024
"""Values a program holds at least: narrow rows are taken several at a time."""


@triton.jit(do_not_specialize=["rows"])
def _rms_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    normed_ptr,
    total_ptr,
    rows,
    width,
    x_stride,
    residual_stride,
    eps,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """ROWS rows of `width` <= WIDTH values; results are contiguous. Without ADD residual and total are unused."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    mask = (row < rows) & (column < width)
    place = row * width + column
    x = tl.load(x_ptr + row * x_stride + column, mask, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row * residual_stride + column, mask, other=0.0).to(tl.float32)
        stored = rounded(x, total_ptr.dtype.element_ty)
        tl.store(total_ptr + place, stored, mask)
        x = stored.to(tl.float32)  # the norm is of the sum as it is stored
    inverse = tl.rsqrt(tl.sum(x * x, 1) / width + eps)
    weight = tl.load(weight_ptr + column, column < width, other=0.0).to(tl.float32)
    tl.store(normed_ptr + place, rounded(x * inverse[:, None] * weight, normed_ptr.dtype.element_ty), mask)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `RmsNorm`: x [..., D], weight [D] -> [..., D]."""
    x_MD = rows_of(x)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x_MD, x_MD, weight, normed, normed, eps, add=False)
    return normed


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `AddRmsNorm`: x, residual [..., D], weight [D] -> (norm(x + residual), x + residual)."""
    normed, total = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _launch(rows_of(x), rows_of(residual), weight, normed, total, eps, add=True)
    return normed, total


def _launch(
    x_MD: Tensor, residual_MD: Tensor, weight_D: Tensor, normed: Tensor, total: Tensor, eps: float, add: bool
) -> None:
    rows, width = x_MD.shape
    if not rows:
        return
    shape, warps = _shape(width)
    _rms_norm[(triton.cdiv(rows, shape["ROWS"]),)](
        x_MD,
        residual_MD,
        weight_D,
        normed,
        total,
        rows,
        width,
        x_MD.stride(0),
        residual_MD.stride(0),
        eps,
        ADD=add,
        num_warps=warps,
        num_stages=1,
        **shape,
    )


def _shape(width: int) -> tuple[dict[str, int], int]:
    """Block sizes and warps for rows of `width` values: 16 to 32 values a thread."""
    block = triton.next_power_of_2(width)
    rows = max(1, ELEMENTS // block)
    return {"ROWS": rows, "WIDTH": block}, min(16, max(2, rows * block // 1024))


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's norms: hidden states with their residual, query latents, latents."""
    return [
        _build(dtype, name, width, add)
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
        for width, add in ((7168, False), (7168, True), (1536, False), (512, False))
    ]


def _build(dtype: torch.dtype, name: str, width: int, add: bool) -> KernelBuild:
    shape, warps = _shape(width)
    pointer = POINTERS[dtype]
    operator = "add_rms_norm" if add else "rms_norm"
    return KernelBuild(
        name=f"{operator}/{name}/d{width}",
        operator=operator,
        kernel=_rms_norm,
        signature={
            "x_ptr": pointer,
            "residual_ptr": pointer,
            "weight_ptr": "*fp32",
            "normed_ptr": pointer,
            "total_ptr": pointer,
            **dict.fromkeys(("rows", "width", "x_stride", "residual_stride"), "i32"),
            "eps": "fp32",
        },
        constants={"ADD": add, **shape},
        num_warps=warps,
        num_stages=1,
        divisible_by_16=(
            "x_ptr",
            "residual_ptr",
            "weight_ptr",
            "normed_ptr",
            "total_ptr",
            "width",
            "x_stride",
            "residual_stride",
        ),
    )
