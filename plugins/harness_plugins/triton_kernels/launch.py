"""What every kernel's launch asks: am I interpreted, for which hardware, in which type do products run."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.contract.span import Span

Capability = tuple[int, int]
"""Compute capability of a GPU, such as (9, 0) for Hopper."""

POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
"""Triton's type of a pointer to a tensor, for `KernelBuild.signature`."""


@triton.jit
def _probe() -> None:
    return


INTERPRETED = tl.constexpr(not isinstance(_probe, triton.JITFunction))
"""For kernels; it was decided when triton was imported, for good."""


def interpreted() -> bool:
    """Whether kernels of this process run in Triton's interpreter."""
    return bool(INTERPRETED.value)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """FP32 values in `dtype`, to nearest even: hardware does that, triton 3.9's interpreter truncates to BF16."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        narrow = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        narrow = x.to(dtype)
    return narrow


def capability(tensor: Tensor) -> Capability | None:
    """Of the GPU that a kernel over `tensor` runs on; None when it is interpreted, where blocks should be small.

    Raises RuntimeError for a tensor that no kernel of this process can reach.
    """
    if interpreted():
        return None
    if tensor.device.type != "cuda":
        raise RuntimeError(
            f"Triton's kernels compute on a GPU, and this tensor is on {tensor.device}; on a CPU they are interpreted, "
            "in a process that had TRITON_INTERPRET=1 before triton was imported, as workers of kernels=triton have"
        )
    return _capability_of(tensor.device)


@functools.cache
def _capability_of(device: torch.device) -> Capability:
    return torch.cuda.get_device_capability(device)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors, the programs it takes to fill a GPU; a few on a CPU, so that work is split."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def rows_of(x: Tensor) -> Tensor:
    """[..., D] -> [M, D]: a view where the strides allow it, else a copy."""
    return x.reshape(-1, x.shape[-1])


def is_wide(dtype: torch.dtype) -> bool:
    """Whether a kernel widens operands of products to FP32: FP32 inputs, and any input under the interpreter.

    triton 3.9's interpreter multiplies BF16 operands wrongly (relative errors of 1e10); products of values widened
    from BF16 are exact in FP32, so a widened kernel computes what tensor cores do.
    """
    return dtype == torch.float32 or interpreted()


@functools.lru_cache(maxsize=64)
def span_bounds(span: Span, device: torch.device) -> Tensor:
    """int32 [2, B]: starts and ends of a span's sequences. Kept for the other layers, which make the same call."""
    return torch.tensor([span.starts, span.ends], dtype=torch.int32, device=device)
