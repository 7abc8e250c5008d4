"""SwiGLU over rows wider than a block, narrow ones, none, and views."""

from __future__ import annotations

from harness.check.operator_calls import Call, Draw
from tests.triton_kernels.against_eager import DTYPES, require_equal_to_eager

SHAPES = ((1, 1), (2, 3, 24), (2, 2500), (0, 16))


@DTYPES
def test_swiglu(dtype: str, device: str) -> None:
    draw = Draw(5)
    calls = [Call(str(shape), (draw.view(*shape), draw.view(*shape))) for shape in SHAPES]
    require_equal_to_eager("swiglu", calls, dtype, device)


@DTYPES
def test_halves_of_one_product(dtype: str, device: str) -> None:
    gate, up = Draw(6).normal(3, 5, 40).chunk(2, -1)
    require_equal_to_eager("swiglu", [Call("chunks", (gate, up))], dtype, device)
