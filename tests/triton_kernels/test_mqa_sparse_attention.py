"""Attention over selected rows: fewer and more keys than a block, split selections, -1 anywhere."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.mqa_sparse_attention import mqa_sparse_attention

from harness.check.operator_calls import Call, Draw
from tests.triton_kernels.against_eager import DTYPES, poisoned_memory, require_equal_to_eager
from tests.triton_kernels.latents import WIDTHS, sparse


@DTYPES
@pytest.mark.parametrize("none_first", [False, True], ids=["none behind", "none before"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_mqa_sparse_attention(dtype: str, widths: str, none_first: bool, device: str) -> None:
    require_equal_to_eager("mqa_sparse_attention", sparse(widths, none_first), dtype, device)


def test_indices_may_be_int32_and_a_view(device: str) -> None:
    draw = Draw(16)
    q, rows = draw.normal(1, 3, 2, 20), draw.normal(1, 90, 20)
    selected = torch.arange(90).flip(0).int().expand(1, 3, -1)[..., 7:80]
    require_equal_to_eager("mqa_sparse_attention", [Call("view", (q, rows, selected, 0.2, 16))], "fp32", device)


def test_a_query_without_keys_gives_zeros(device: str) -> None:
    q, rows = torch.ones(1, 2, 2, 20, device=device), torch.ones(1, 4, 20, device=device)
    selected = torch.tensor([[[-1, -1], [3, -1]]], device=device)
    with poisoned_memory():
        out = mqa_sparse_attention(q, rows, selected, 0.2, 16)
    assert torch.equal(out[0, 0], torch.zeros_like(out[0, 0]))
    assert torch.allclose(out[0, 1], torch.ones_like(out[0, 1]))
