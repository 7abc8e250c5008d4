"""Rotation in both layouts, with tables shared by heads, by sequences, or by nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from harness.check.operator_calls import Call, Draw
from tests.triton_kernels.against_eager import DTYPES, require_equal_to_eager

SHAPES = {
    "queries": ((2, 7, 3, 64), (2, 7, 1, 32)),
    "keys": ((2, 7, 10), (2, 7, 5)),
    "one table for all": ((3, 4, 2, 6), (3,)),
    "tables per position": ((2, 5, 2, 8), (5, 1, 4)),
    "many rows": ((1, 130, 3, 20), (1, 130, 1, 10)),
    "five dimensions": ((2, 1, 3, 2, 4), (2, 1, 3, 1, 2)),
    "no tokens": ((1, 0, 2, 8), (1, 0, 1, 4)),
}


def calls(interleaved: bool) -> Iterator[Call]:
    draw = Draw(4)
    for what, (shape, table) in SHAPES.items():
        angles = 3 * torch.rand(table, generator=draw.generator, dtype=torch.float64)
        yield Call(what, (draw.view(*shape), angles.cos(), 1.3 * angles.sin(), interleaved))


@DTYPES
@pytest.mark.parametrize("interleaved", [True, False], ids=["interleaved", "split"])
def test_rotary(dtype: str, interleaved: bool, device: str) -> None:
    require_equal_to_eager("rotary", calls(interleaved), dtype, device)
