"""A plugin with toy kernels: a copy, a matrix product, one that does not compile, one that ends its compiler."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl

from harness.contract import Option, hookimpl
from harness.contract.compiling import KernelBuild
from harness.contract.operators import Operators, reference_operators


@hookimpl
def harness_options() -> Sequence[Option]:
    """The kernel set `toy`."""
    return [Option("kernels", "toy", operators, "toy kernels")]


@triton.jit
def twice(x):
    return x + x


@triton.jit
def copy_kernel(source, target, count, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + places, twice(tl.load(source + places, places < count)), places < count)


@triton.jit
def product_kernel(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    left, right = tl.load(a + m[:, None] * K + k[None, :]), tl.load(b + k[:, None] * N + n[None, :])
    tl.store(c + m[:, None] * N + n[None, :], tl.dot(left, right))


@triton.jit
def broken_kernel(a):
    tl.store(a, tl.dot(1, 2))


COPY = KernelBuild(
    "copy/fp32", "rms_norm", copy_kernel, {"source": "*fp32", "target": "*fp32", "count": "i32"}, {"BLOCK": 256},
    divisible_by_16=("source", "target"),
)  # fmt: skip
PRODUCT = KernelBuild(
    "product/bf16", "swiglu", product_kernel, {"a": "*bf16", "b": "*bf16", "c": "*fp32"},
    {"M": 64, "N": 64, "K": 64}, divisible_by_16=("a", "b", "c"), matrix_product=True,
)  # fmt: skip
BROKEN = KernelBuild("broken", "rotary", broken_kernel, {"a": "*fp32"})
MISFIT = dataclasses.replace(COPY, name="misfit", operator="rotary", signature={"source": "*fp32", "other": "i32"})


class Deadly:
    """In the place of a kernel: looking at it ends a compiling process, as a crash in LLVM would."""

    cache_key = "deadly"

    def __getattr__(self, name: str) -> Any:
        if "harness-compile-" in os.environ.get("TRITON_CACHE_DIR", ""):
            os._exit(7)
        raise AttributeError(name)


DEADLY = KernelBuild("deadly", "index_scores", Deadly(), {})


def operators() -> Operators:
    """The reference with builds."""
    return dataclasses.replace(reference_operators(), name="toy", builds=builds)


def builds(capability: tuple[int, int]) -> list[KernelBuild]:
    """All of them, everywhere; the product from Hopper on."""
    return [COPY, BROKEN, MISFIT, DEADLY, *([PRODUCT] if capability >= (9, 0) else [])]
