"""The selectors `dense` and `dsa`: which keys a query attends to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.contract.attention import LightningIndexer, Selector, SelectorSource
from harness.contract.cache import Keys
from harness.contract.config import ModelConfig
from harness.contract.synthetic import INDEX_KEY

SELECT_BYTES = 8 << 20
"""Largest tensor of index scores [t, S] at one time."""


class Dense(Selector):
    """Every visible key."""

    name = "dense"

    def select(self, source: SelectorSource, keys: Keys) -> None:
        """No selection."""
        return


class Dsa(Selector):
    """The `index_topk` visible keys with the highest index score (DeepSeek-V3.2-Exp report, section 2.1).

    While no query of a chunk sees more keys than that, the selection is all of them and nothing is scored.
    """

    name = "dsa"

    def cache_fields(self, config: ModelConfig) -> Mapping[str, int]:
        """One index key per token."""
        return {INDEX_KEY: config.index_head_dim}

    def new_fields(self, source: SelectorSource) -> Mapping[str, Tensor]:
        """The index keys of the tokens of a call."""
        return {INDEX_KEY: _indexer(source).keys(source)}

    def keys_per_query(self, config: ModelConfig) -> int | None:
        """index_topk."""
        return config.index_topk

    @torch.no_grad()
    def select(self, source: SelectorSource, keys: Keys) -> Tensor | None:
        """Score every visible key, keep the best: the choice is discrete, so nothing is differentiated."""
        span, topk = source.span, source.config.index_topk
        if span.end <= topk:
            return None
        chunk = max(1, SELECT_BYTES // (4 * span.batch * span.end))
        chosen = []
        for columns, part in span.chunks(chunk):
            few = source.columns(columns, part)
            indexer = _indexer(few)
            scores_BTS = keys.index_scores(few.ops, indexer.queries(few), indexer.head_weights(few), part)
            chosen.append(_padded(few.ops.select_topk(scores_BTS, min(topk, part.end)), topk))
        return torch.cat(chosen, 1)


def _padded(selected_BTk: Tensor, count: int) -> Tensor:
    """The same selection, as wide as every other chunk's."""
    return torch.nn.functional.pad(selected_BTk, (0, count - selected_BTk.shape[-1]), value=-1)


def _indexer(source: SelectorSource) -> LightningIndexer:
    assert source.indexer is not None, "selector dsa says in unsupported() that it needs an indexer"
    return source.indexer


DENSE, DSA = Dense(), Dsa()
