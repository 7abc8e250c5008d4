"""Selectors: a sound sliding window, and one planted fault each. Imports torch at the top, for brevity."""

from __future__ import annotations

import torch

from harness.contract import Option, hookimpl
from harness.contract.attention import Selector

WINDOW = 12


class Sound(Selector):
    """The nearest 12 keys."""

    name = "sound"

    def keys_per_query(self, config):
        return WINDOW

    def last(self, span):
        """[B, T]: the newest key of each query; padding gets that of the last token."""
        return torch.minimum(span.positions("cpu"), torch.tensor(span.ends)[:, None] - 1)

    def select(self, source, keys):
        return (self.last(source.span)[..., None] - torch.arange(WINDOW - 1, -1, -1)).clamp(min=-1)


class SeesTheFuture(Sound):
    """The window ends one key behind the query."""

    def last(self, span):
        return torch.minimum(super().last(span) + 1, torch.tensor(span.ends)[:, None] - 1)


class SelectsNothing(Sound):
    """The first query of a call gets no key."""

    def select(self, source, keys):
        chosen_BTK = super().select(source, keys)
        chosen_BTK[:, 0] = -1
        return chosen_BTK


class SelectsTwice(Sound):
    """The nearest key is selected twice."""

    def select(self, source, keys):
        chosen_BTK = super().select(source, keys)
        chosen_BTK[..., 0] = chosen_BTK[..., -1]
        return chosen_BTK


class DependsOnTheChunk(Sound):
    """The window does not move with the queries of a call."""

    def last(self, span):
        last_BT = super().last(span)
        return torch.minimum(last_BT, last_BT[:, :1] + 3)


class ClaimsFewer(Sound):
    """More keys than keys_per_query says."""

    def keys_per_query(self, config):
        return WINDOW - 2


OPTIONS = {
    "sound": Sound,
    "sees-the-future": SeesTheFuture,
    "selects-nothing": SelectsNothing,
    "selects-twice": SelectsTwice,
    "depends-on-the-chunk": DependsOnTheChunk,
    "claims-fewer": ClaimsFewer,
}


def _only_native(query):
    return [] if query.variant.engine == "native" else ["only engine native takes selectors"]


@hookimpl
def harness_options():
    return [Option("selector", name, option, option.__doc__, _only_native) for name, option in OPTIONS.items()]
