"""Engines around `native`: a sound twin, and one planted fault each, as an outside engine could have it.

Imports torch at the top, for brevity.
"""

from __future__ import annotations

from functools import partial

import torch

from harness.contract import Option, hookimpl
from harness.model.runner import NativeRunner
from harness.model.runner import build as build_native


class Sound(NativeRunner):
    """native as it is."""


class AnswersInBf16(NativeRunner):
    """Logits in the dtype of the model."""

    def logits(self, tokens_BT, lengths_B=None):
        return super().logits(tokens_BT, lengths_B).bfloat16()


class AnswersNan(NativeRunner):
    """NaN for sequences of one token."""

    def logits(self, tokens_BT, lengths_B=None):
        logits_BTV = super().logits(tokens_BT, lengths_B)
        return logits_BTV * float("nan") if tokens_BT.shape[1] == 1 else logits_BTV


class MixesSequences(NativeRunner):
    """The last sequence leaks into the others."""

    def logits(self, tokens_BT, lengths_B=None):
        logits_BTV = super().logits(tokens_BT, lengths_B)
        return logits_BTV + 0.1 * logits_BTV[-1:]


class ScoresTheWrongToken(NativeRunner):
    """Log-probabilities of the present token, not of the next."""

    def score(self, tokens_BT, lengths_B=None):
        return super().score(torch.cat([tokens_BT[:, :1], tokens_BT[:, :-1]], 1), lengths_B)


class TakesTheLastColumn(NativeRunner):
    """A ragged prefill answers for the last column, padding or not."""

    def prefill(self, tokens_BT, state, lengths_B=None):
        logits_BV = super().prefill(tokens_BT, state, lengths_B)
        return logits_BV if lengths_B is None else self.logits(tokens_BT)[:, -1]


class ChunksStartAnew(NativeRunner):
    """Positions of every chunk start at 0."""

    def prefill(self, tokens_BT, state, lengths_B=None):
        super().prefill(tokens_BT, state, lengths_B)
        return self.logits(tokens_BT)[:, -1]


class Samples(NativeRunner):
    """Decoded logits with noise."""

    def decode(self, tokens_B, state):
        logits_BV = super().decode(tokens_B, state)
        return logits_BV + 0.1 * torch.randn_like(logits_BV)


class StartsWithAToken(NativeRunner):
    """Decoding into an empty state puts a token of its own first."""

    def decode(self, tokens_B, state):
        if not int(state.lengths_B.max()):
            super().decode(torch.zeros_like(tokens_B), state)
        return super().decode(tokens_B, state)

    def new_state(self, batch, max_len):
        return super().new_state(batch, max_len + 1)


class ClearsPadding(NativeRunner):
    """The caller's tokens are set to zero behind each sequence."""

    def prefill(self, tokens_BT, state, lengths_B=None):
        if lengths_B is not None:
            tokens_BT[torch.arange(tokens_BT.shape[1]) >= lengths_B[:, None]] = 0
        return super().prefill(tokens_BT, state, lengths_B)


class AcceptsTooMuch(NativeRunner):
    """A state grows beyond its max_len."""

    def new_state(self, batch, max_len):
        return super().new_state(batch, max_len + 8)


class IgnoresTruncate(NativeRunner):
    """Stale: truncate forgets nothing."""

    def new_state(self, batch, max_len):
        state = super().new_state(batch, max_len)
        state.truncate = lambda lengths_B: None
        return state


class FillsItsOwnWay(NativeRunner):
    """Another synthetic context than the declared one."""

    def new_state(self, batch, max_len):
        state = super().new_state(batch, max_len)
        fill_random = state.fill_random
        state.fill_random = lambda seed, length: fill_random(seed + 1, length)
        return state


OPTIONS = {
    "sound": Sound,
    "answers-in-bf16": AnswersInBf16,
    "answers-nan": AnswersNan,
    "mixes-sequences": MixesSequences,
    "scores-the-wrong-token": ScoresTheWrongToken,
    "takes-the-last-column": TakesTheLastColumn,
    "chunks-start-anew": ChunksStartAnew,
    "samples": Samples,
    "starts-with-a-token": StartsWithAToken,
    "clears-padding": ClearsPadding,
    "accepts-too-much": AcceptsTooMuch,
    "ignores-truncate": IgnoresTruncate,
    "fills-its-own-way": FillsItsOwnWay,
}

DEFAULTS = {
    "form": "mha",
    "selector": "dense",
    "precision": "fp32",
    "cache": "latent",
    "kernels": "own",
    "decoding": "plain",
}


def build(runner, request):
    return runner(build_native(request).model)


def own_kernels():
    from harness.contract.operators import reference_operators

    return reference_operators()


def _takes_little(query):
    taken = {"form": "mha", "selector": "dense", "precision": "fp32", "kernels": "own"}
    return [f"takes {axis} {name} alone" for axis, name in taken.items() if getattr(query.variant, axis) != name]


def _only_here(query):
    return [] if query.variant.engine in OPTIONS else ["these kernels belong to another engine"]


@hookimpl
def harness_options():
    engines = [
        Option("engine", name, lambda runner=runner: partial(build, runner), runner.__doc__, _takes_little, DEFAULTS)
        for name, runner in OPTIONS.items()
    ]
    return [*engines, Option("kernels", "own", own_kernels, "what these engines compute with", _only_here)]
