"""Attention over latent rows: every kind of span, odd widths, split contexts, memory that nobody wrote."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.latent_blocks import split_count
from harness_plugins.triton_kernels.mqa_attention import mqa_attention

from harness.check.operator_calls import Call, Draw
from harness.contract.span import Span
from tests.triton_kernels.against_eager import DTYPES, poisoned_memory, require_equal_to_eager
from tests.triton_kernels.latents import WIDTHS, dense


@DTYPES
@pytest.mark.parametrize("widths", WIDTHS)
def test_mqa_attention(dtype: str, widths: str, device: str) -> None:
    require_equal_to_eager("mqa_attention", dense(widths), dtype, device)


@DTYPES
def test_values_may_be_whole_rows(dtype: str, device: str) -> None:
    """A row without a rope part."""
    draw, span = Draw(13), Span((17,), (20,), 3)
    q, rows = draw.normal(1, 3, 2, 24), draw.keys(span, 1, 22, 24, dim=1)
    require_equal_to_eager("mqa_attention", [Call("no rope", (q, rows, span, 0.2, 24))], dtype, device)


@DTYPES
def test_rows_of_a_wider_buffer(dtype: str, device: str) -> None:
    """The stride of rows is not their width, sequences lie apart, and queries come head by head."""
    draw, span = Draw(14), Span((33, 10), (35, 12), 2)
    rows = draw.normal(2, 60, 31)[:, 5:45, 3:25]
    q = draw.normal(2, 3, 2, 22).transpose(1, 2)
    require_equal_to_eager("mqa_attention", [Call("views", (q, rows, span, 0.2, 16))], dtype, device)


def test_large_scores_do_not_overflow(device: str) -> None:
    """Scores of some hundreds: the running maximum, in every block and between splits."""
    draw, span = Draw(15), Span((149,), (150,), 1)
    q, rows = 8 * draw.normal(1, 1, 2, 24), 8 * draw.normal(1, 150, 24)
    require_equal_to_eager("mqa_attention", [Call("large", (q, rows, span, 1.0, 16))], "fp32", device)


def test_queries_without_keys_give_zeros(device: str) -> None:
    """Padding of an empty sequence is finite."""
    span = Span((0, 0), (0, 3), 3)
    q, rows = torch.ones(2, 3, 2, 20, device=device), torch.full((2, 4, 20), torch.nan, device=device)
    rows[1, :3] = 1
    with poisoned_memory():
        out = mqa_attention(q, rows, span, 0.2, 16)
    assert torch.equal(out[0], torch.zeros_like(out[0]))


def test_nothing_asked_nothing_given(device: str) -> None:
    rows = torch.empty(2, 4, 20, device=device)
    assert mqa_attention(torch.empty(2, 0, 2, 20, device=device), rows, Span((4, 4), (4, 4), 0), 1.0, 16).numel() == 0


@pytest.mark.parametrize(
    ("programs", "keys", "parts"),
    [(2, 131072, 64), (64, 131072, 2), (132, 131072, 1), (2, 64, 1), (1, 0, 1), (1, 256, 1), (1, 640, 10)],
)
def test_parts_fill_132_processors(programs: int, keys: int, parts: int) -> None:
    """V3's decode: as many parts as fill the processors, one when there are programs enough or keys are few."""
    assert split_count(programs, keys, block=64, processors=132) == parts
