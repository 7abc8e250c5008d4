"""Attention with keys of every head: blocks seen whole and in part, selections, chunks of queries, views."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from harness_plugins.triton_kernels import mha_attention as kernels

from harness.check.operator_calls import Call, Draw
from harness.contract.span import Span
from tests.triton_kernels.against_eager import DTYPES, poisoned_memory, require_equal_to_eager
from tests.triton_kernels.latents import SPANS

WIDTHS = {"odd": (2, 27, 10), "powers of two": (1, 16, 32), "narrow": (3, 6, 4)}
"""Heads, key width and value width."""


def calls(widths: str, selected: int | None) -> Iterator[Call]:
    """Every span for odd widths, one for the others."""
    draw = Draw(21)
    heads, width, value = WIDTHS[widths]
    for what in SPANS if widths == "odd" else ["up to a border"]:
        span = SPANS[what]
        if selected and min(span.ends) == 0:
            continue
        q = draw.view(span.batch, span.width, heads, width)
        k = draw.keys(span, span.batch, heads, span.end + 3, width, dim=2)
        v = draw.keys(span, span.batch, heads, span.end + 3, value, dim=2)
        chosen = draw.selection(span, selected, none_first=True).int() if selected else None
        yield Call(f"{what}, {selected} selected", (q, k, v, span, 0.2, chosen))


@DTYPES
@pytest.mark.parametrize("selected", [None, 5], ids=["all keys", "selected"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_mha_attention(dtype: str, widths: str, selected: int | None, device: str) -> None:
    require_equal_to_eager("mha_attention", calls(widths, selected), dtype, device)


def test_a_long_selection_is_taken_in_chunks_of_queries(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MASK_BYTES", 100)
    require_equal_to_eager("mha_attention", calls("odd", 3), "fp32", device)


@DTYPES
def test_keys_and_values_are_views(dtype: str, device: str) -> None:
    """As an expansion makes them: one tensor [B, S, H, N + V], taken apart."""
    draw, span = Draw(22), Span((15,), (18,), 3)
    both = draw.normal(1, 20, 2, 40).transpose(1, 2)
    arguments = (draw.normal(1, 2, 3, 24).transpose(1, 2), both[..., :24], both[..., 24:], span, 0.2, None)
    require_equal_to_eager("mha_attention", [Call("views", arguments)], dtype, device)


def test_queries_without_keys_give_zeros(device: str) -> None:
    """Padding of an empty sequence, and a query with nothing selected, are finite."""
    span = Span((0,), (0,), 2)
    ones = torch.ones(1, 2, 2, 20, device=device)
    nan = torch.full((1, 2, 3, 20), torch.nan, device=device)
    with poisoned_memory():
        assert torch.equal(kernels.mha_attention(ones, nan, nan, span, 0.2, None), torch.zeros_like(ones))
        none = torch.full((1, 2, 4), -1, device=device)
        given = kernels.mha_attention(ones, ones.expand(1, 2, 2, 20), ones, Span((0,), (2,), 2), 0.2, none)
    assert torch.equal(given, torch.zeros_like(ones))
