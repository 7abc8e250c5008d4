"""Index scores: blocks of keys and queries that are crossed, ragged sequences, rows that nobody may see."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from harness_plugins.triton_kernels.index_scores import configure, index_scores
from harness_plugins.triton_kernels.launch import interpreted

from harness.check.operator_calls import Call, Draw
from harness.contract.span import Span
from tests.triton_kernels.against_eager import DTYPES, require_equal_to_eager

SPANS = {
    "a prompt": Span.fresh(1, 35),
    "a chunk": Span((30,), (47,), 17),
    "one token": Span((32,), (33,), 1),
    "a few tokens": Span((14, 14), (17, 17), 3),
    "ragged": Span((0, 40, 17), (9, 43, 17), 9),
}


def call(span: Span, heads: int, width: int) -> Call:
    draw = Draw(span.end)
    q, weights = draw.view(span.batch, span.width, heads, width), draw.view(span.batch, span.width, heads)
    keys = draw.keys(span, span.batch, span.end + 3, width, dim=1)
    return Call(f"{heads} heads of {width}", (q, weights, keys, span))


@DTYPES
@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_index_scores(span: Span, dtype: str, device: str) -> None:
    calls = [call(span, heads, width) for heads, width in ((1, 16), (3, 7), (20, 40))]
    require_equal_to_eager("index_scores", calls, dtype, device)


@DTYPES
def test_heads_that_lie_apart(dtype: str, device: str) -> None:
    """Any strides but a contiguous last dimension."""
    span = SPANS["ragged"]
    q, weights, keys, _ = call(span, 4, 8).arguments
    turned = q.transpose(1, 2).contiguous().transpose(1, 2)
    spread = torch.stack([keys, keys], 2)[:, :, 0]
    require_equal_to_eager("index_scores", [Call("turned", (turned, weights, spread, span))], dtype, device)


@pytest.mark.skipif(interpreted(), reason="takes minutes when interpreted")
@DTYPES
@pytest.mark.parametrize("heads", [64, 32])
@pytest.mark.parametrize(
    "span", [Span((4999,), (5000,), 1), Span((700, 90), (704, 94), 4), Span((1000,), (1200,), 200)], ids=str
)
def test_real_heads(span: Span, heads: int, dtype: str, device: str) -> None:
    require_equal_to_eager("index_scores", [call(span, heads, 128)], dtype, device)


def test_nothing_to_score(device: str) -> None:
    q, weights, keys = (torch.zeros(2, *rest, device=device) for rest in ((0, 4, 8), (0, 4), (5, 8)))
    assert index_scores(q, weights, keys, Span((3, 3), (3, 3), 0)).shape == (2, 0, 3)


@pytest.mark.parametrize("capability", [None, (8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("heads", [1, 5, 32, 64, 128])
@pytest.mark.parametrize("queries", [1, 2, 5, 33, 4096])
def test_configurations_can_be_launched(
    queries: int, heads: int, wide: bool, capability: tuple[int, int] | None
) -> None:
    """Products have at least 16 rows, columns and inner columns, and blocks are powers of two."""
    config, _, _ = configure(queries, heads, 20, wide, capability)
    assert all(size & (size - 1) == 0 for size in dataclasses.astuple(config))
    assert config.QUERIES % config.TOGETHER == 0
    assert min(config.KEYS, config.TOGETHER * heads, config.INNER) >= 16 or heads == 5
