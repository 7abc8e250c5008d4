"""Calls of attention over latent rows that cross the borders of blocks: of keys, of query rows, and of splits.

Interpreted kernels take 16 keys and 16 query rows at a time, and have four processors to share long contexts out to.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.check.operator_calls import Call, Draw
from harness.contract.span import Span

SPANS = {
    "whole": Span.fresh(1, 19),
    "a first token": Span((0,), (1,), 1),
    "up to a border": Span((30, 30), (32, 32), 2),
    "decode": Span((16, 16), (17, 17), 1),
    "split decode": Span((149,), (150,), 1),
    "ragged split decode": Span((149, 2), (150, 3), 1),
    "ragged chunk": Span((3, 0, 40), (6, 1, 43), 3),
    "an empty sequence": Span((0, 5), (0, 7), 2),
}

WIDTHS = {"odd": (3, 20, 6), "a block": (16, 16, 16), "many heads": (33, 8, 4)}
"""Heads, latent and rope part of a row."""

FEW = ("up to a border", "ragged split decode")
"""Spans for all widths; the others have odd ones."""


def dense(widths: str) -> Iterator[Call]:
    """Calls of `mqa_attention`."""
    draw = Draw(11)
    heads, latent, rope = WIDTHS[widths]
    for what in SPANS if widths == "odd" else FEW:
        span = SPANS[what]
        q = draw.view(span.batch, span.width, heads, latent + rope)
        yield Call(what, (q, draw.keys(span, span.batch, span.end + 3, latent + rope, dim=1), span, 0.2, latent))


def sparse(widths: str, none_first: bool) -> Iterator[Call]:
    """Calls of `mqa_sparse_attention` in which every query sees a key: fewer than a block, and more."""
    draw = Draw(12)
    heads, latent, rope = WIDTHS[widths]
    counts = {"up to a border": 17, "split decode": 140, "ragged split decode": 1, "ragged chunk": 5}
    for what in counts if widths == "odd" else FEW:
        span = SPANS[what]
        q = draw.view(span.batch, span.width, heads, latent + rope)
        rows = draw.keys(span, span.batch, span.end + 3, latent + rope, dim=1)
        selected = draw.selection(span, counts[what], none_first)
        yield Call(f"{what}, {counts[what]} selected", (q, rows, selected, 0.2, latent))
