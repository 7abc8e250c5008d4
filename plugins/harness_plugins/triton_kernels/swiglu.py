"""SwiGLU: silu(gate) * up, computed in FP32 and rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness_plugins.triton_kernels.launch import POINTERS, Capability, rounded, rows_of

BLOCK = 2048
"""Columns of one row that a program computes."""


@triton.jit
def _swiglu(gate_ptr, up_ptr, out_ptr, width, gate_stride, up_stride, BLOCK: tl.constexpr):
    """BLOCK columns of one row; the result is contiguous."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    gate = tl.load(gate_ptr + row * gate_stride + column, mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + column, rounded(gate * tl.sigmoid(gate) * up, out_ptr.dtype.element_ty), mask)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See `SwiGlu`: gate, up [..., F] -> [..., F]."""
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    gate_MF, up_MF = rows_of(gate), rows_of(up)
    rows, width = gate_MF.shape
    if rows:
        grid = (rows, triton.cdiv(width, _block(width)))
        strides = gate_MF.stride(0), up_MF.stride(0)
        _swiglu[grid](gate_MF, up_MF, out, width, *strides, BLOCK=_block(width), num_warps=4, num_stages=1)
    return out


def _block(width: int) -> int:
    return min(BLOCK, triton.next_power_of_2(width))


def builds(capability: Capability) -> list[KernelBuild]:
    """V3's dense and shared-expert networks."""
    return [
        KernelBuild(
            name=f"swiglu/{name}",
            operator="swiglu",
            kernel=_swiglu,
            signature={
                **dict.fromkeys(("gate_ptr", "up_ptr", "out_ptr"), POINTERS[dtype]),
                **dict.fromkeys(("width", "gate_stride", "up_stride"), "i32"),
            },
            constants={"BLOCK": _block(2048)},
            num_warps=4,
            num_stages=1,
            divisible_by_16=("gate_ptr", "up_ptr", "out_ptr", "width", "gate_stride", "up_stride"),
        )
        for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32"))
    ]
