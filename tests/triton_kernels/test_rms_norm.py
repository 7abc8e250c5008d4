"""Norms: rows that are several blocks, one, or none; widths that are no power of two; views."""

from __future__ import annotations

from harness.check.operator_calls import Call, Draw
from tests.triton_kernels.against_eager import DTYPES, require_equal_to_eager

SHAPES = ((1, 1), (70, 20), (3, 2, 1100), (2, 0, 16), (5, 512))


@DTYPES
def test_rms_norm(dtype: str, device: str) -> None:
    draw = Draw(1)
    calls = [Call(str(shape), (draw.view(*shape), draw.normal(shape[-1]), 1e-6)) for shape in SHAPES]
    require_equal_to_eager("rms_norm", calls, dtype, device)


@DTYPES
def test_add_rms_norm(dtype: str, device: str) -> None:
    draw = Draw(2)
    calls = [
        Call(str(shape), (draw.view(*shape), draw.normal(*shape), draw.normal(shape[-1]), 1e-3)) for shape in SHAPES
    ]
    require_equal_to_eager("add_rms_norm", calls, dtype, device)


@DTYPES
def test_rows_that_cannot_be_flattened_without_a_copy(dtype: str, device: str) -> None:
    draw = Draw(3)
    x = draw.normal(6, 4, 24).transpose(0, 1)[:, ::2]
    require_equal_to_eager("rms_norm", [Call("transposed", (x, draw.normal(24), 1e-6))], dtype, device)
