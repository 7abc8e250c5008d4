"""What a kernel set says about its kernels, so that they can be compiled without a device and looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class KernelBuild:
    """One kernel under one configuration: everything that decides its machine code but the target."""

    name: str
    """Stable and printable, such as `mqa_decode/bf16/h128`; unique within a kernel set."""
    operator: str
    """The slot of the operator table that it serves."""
    kernel: Any
    """The `triton.JITFunction`."""
    signature: Mapping[str, str]
    """Triton type of every run-time argument by name, such as `*bf16`, `i32` or `fp32`."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Value of every `tl.constexpr` argument by name."""
    num_warps: int = 4
    num_stages: int = 2
    divisible_by_16: tuple[str, ...] = ()
    """Arguments (pointers and strides) that are multiples of 16 at every launch: lets loads be wide."""
    matrix_product: bool = False
    """Whether it has a matrix product, so that matrix instructions are to be expected in it."""
