"""Checks of variants that look at one of their parts: a selector's choices, a decoding's tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.check.subject import Subject
from harness.check.verdict import NotApplicableError, require
from harness.check.ways import LENGTH
from harness.contract.attention import Selector, SelectorSource
from harness.contract.cache import Keys
from harness.contract.config import ModelConfig
from harness.contract.runner import Decoding
from harness.contract.span import Span


class ObservedSelector(Selector):
    """A selector that looks at every choice of another one."""

    def __init__(self, inner: Selector) -> None:
        self.inner, self.name, self.calls = inner, inner.name, 0

    def cache_fields(self, config: ModelConfig) -> Mapping[str, int]:
        """The other's."""
        return self.inner.cache_fields(config)

    def new_fields(self, source: SelectorSource) -> Mapping[str, Tensor]:
        """The other's."""
        return self.inner.new_fields(source)

    def keys_per_query(self, config: ModelConfig) -> int | None:
        """The other's."""
        return self.inner.keys_per_query(config)

    def select(self, source: SelectorSource, keys: Keys) -> Tensor | None:
        """The other's choice; raises FaultError when it breaks the contract of `Selector.select`."""
        self.calls += 1
        chosen_BTK = self.inner.select(source, keys)
        if chosen_BTK is not None:
            _require_valid(chosen_BTK.cpu(), source.span, self.inner.keys_per_query(source.config))
        return chosen_BTK


def selection_is_valid(subject: Subject) -> None:
    """Every query gets at least one key, none twice, none that it does not see, none beyond keys_per_query."""
    selector = subject.bench.registry.option("selector", subject.variant.selector).load()
    if not isinstance(selector, Selector):
        raise NotApplicableError(f"selector {subject.variant.selector} is not a Selector")
    observed = ObservedSelector(selector)
    runner, tokens_BT = subject.with_parts({"selector": observed}), subject.tokens(2, LENGTH)
    runner.logits(tokens_BT)
    state = runner.new_state(2, LENGTH + 1)
    runner.prefill(tokens_BT, state, torch.tensor([LENGTH, 20]))
    runner.decode(tokens_BT[:, 0], state)
    if not observed.calls:
        raise NotApplicableError(f"engine {subject.variant.engine} chooses keys by itself")


def decoding_is_greedy(subject: Subject) -> None:
    """Generated tokens are the likeliest ones, as many as asked for, up to the first stop token."""
    decoding = subject.bench.registry.option("decoding", subject.variant.decoding).load()
    if not isinstance(decoding, Decoding):
        raise NotApplicableError(f"decoding {subject.variant.decoding} is not a Decoding")
    tokens_BT, lengths = subject.tokens(2, 9), [9, 4]
    answers = decoding.generate(subject.runner, tokens_BT, torch.tensor(lengths), 6)
    for row, length in enumerate(lengths):
        require(len(answers[row]) == 6, f"6 tokens asked for, {len(answers[row])} given")
        _require_greedy(subject, tokens_BT[row, :length], answers[row])
    stop = answers[0][2]
    stopped = decoding.generate(subject.runner, tokens_BT, torch.tensor(lengths), 6, (stop,))
    for row in range(2):
        due = answers[row][: answers[row].index(stop) + 1] if stop in answers[row] else answers[row]
        require(stopped[row] == due, f"with {stop} as stop token sequence {row} is {stopped[row]}, expected {due}")


def _require_valid(chosen_BTK: Tensor, span: Span, limit: int | None) -> None:
    require(not chosen_BTK.is_floating_point(), f"positions in {chosen_BTK.dtype}; integers are due")
    if limit is not None:
        require(chosen_BTK.shape[-1] <= limit, f"{chosen_BTK.shape[-1]} keys per query; keys_per_query says {limit}")
    for b, (start, end) in enumerate(zip(span.starts, span.ends, strict=True)):
        for t in range(end - start):
            chosen = [key for key in chosen_BTK[b, t].tolist() if key >= 0]
            where = f"the query at position {start + t} of sequence {b}"
            require(bool(chosen), f"{where} gets no key")
            require(len(chosen) == len(set(chosen)), f"{where} gets a key twice: {chosen}")
            require(max(chosen) <= start + t, f"{where} gets key {max(chosen)}, which it does not see")


def _require_greedy(subject: Subject, prompt_T: Tensor, answer: list[int]) -> None:
    tokens_T = torch.cat([prompt_T, torch.tensor(answer)])
    logits_TV = subject.runner.logits(tokens_T[None])[0, len(prompt_T) - 1 : -1].cpu()
    for step, (logits_V, token) in enumerate(zip(logits_TV, answer, strict=True)):
        gap = float(logits_V.max() - logits_V[token])
        # Two tokens as likely as rounding can tell may change places.
        slack = subject.allowed.typical * float(logits_V.norm())
        require(gap <= slack, f"token {token} of step {step} is {gap:.2g} below the best logit; allowed {slack:.1g}")
