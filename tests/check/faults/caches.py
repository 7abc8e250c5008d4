"""Cache formats: a sound twin of `latent` with two fields instead of one row, and one planted fault each.

Imports torch at the top, for brevity; a plugin that is installed names its factories instead.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from harness.contract import Option, hookimpl
from harness.contract.cache import CacheField, CacheFormat, LayerCache


class Sound(LayerCache):
    """Latent and rotary key in two fields."""

    def write(self, new, span):
        latent = new.key_up_HNC.shape[-1]
        self.put("latent", new.rows_BTL[..., :latent], span)
        self.put("rope", new.rows_BTL[..., latent:], span)
        for added, values in new.fields.items():
            self.put(added, values, span)

    def latent_rows(self, end):
        return torch.cat([self.view("latent", end), self.view("rope", end)], -1)

    def expanded(self, end):
        return None

    def field(self, added, end):
        return self.view(added, end)


class KeepsTheFirst(Sound):
    """Stale: a position that was written once is never written again."""

    written = 0

    def write(self, new, span):
        if max(span.ends) > self.written:
            super().write(new, span)
            self.written = max(span.ends)


class ForgetsSteps(Sound):
    """Stale: single tokens are not stored."""

    def write(self, new, span):
        if span.width > 1 or not min(span.starts):
            super().write(new, span)


class SharesItsMemory(Sound):
    """Stale: all states of one shape have one storage."""

    shared: dict = {}  # noqa: RUF012 - the fault

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.storage = self.shared.setdefault(tuple(self.storage["latent"].shape), self.storage)


class WritesPadding(Sound):
    """Padded columns are written over what stands behind them."""

    def write(self, new, span):
        room = self.storage["latent"].shape[1]
        super().write(new, replace(span, ends=tuple(min(start + span.width, room) for start in span.starts)))


class ReportsHalf(Sound):
    """Bytes are those of half the rows."""

    @property
    def bytes(self):
        return super().bytes // 2


class StartsUndefined(Sound):
    """Rows that were never written take part, by way of a maximum over all of them."""

    def latent_rows(self, end):
        return super().latent_rows(end) + 0 * self.storage["latent"].amax()


OPTIONS = {
    "sound": Sound,
    "keeps-the-first": KeepsTheFirst,
    "forgets-steps": ForgetsSteps,
    "shares-its-memory": SharesItsMemory,
    "writes-padding": WritesPadding,
    "reports-half": ReportsHalf,
    "starts-undefined": StartsUndefined,
}


class Format(CacheFormat):
    def __init__(self, name):
        self.name = name

    def stored(self, config, dtype, added):
        widths = {"latent": config.kv_lora_rank, "rope": config.qk_rope_head_dim, **added}
        return [CacheField(field, width, dtype) for field, width in widths.items()]

    def new_layer(self, stored, batch, max_len, device, ops):
        return OPTIONS[self.name](stored, batch, max_len, device)


def _only_native(query):
    return [] if query.variant.engine == "native" else ["only engine native takes cache formats"]


@hookimpl
def harness_options():
    return [
        Option("cache", name, partial(Format, name), layer.__doc__, _only_native) for name, layer in OPTIONS.items()
    ]
