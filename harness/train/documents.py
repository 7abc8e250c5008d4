"""Training documents in tokens: real text with facts and questions (`harness.retrieval`) at random line boundaries.

Every token has a kind, which decides its weight in the loss: text is predicted, answers are predicted with more
weight, and what nobody could predict - names and values of facts, names of questions - is not asked for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from harness.retrieval import Fact, answer, draw_chains, draw_facts, question, shuffled_together
from harness.train.recipe import Documents

Tokens = npt.NDArray[np.int64]

LINKS = 3
"""Most links of a chain of names."""
LATE_SHARE = 0.5
"""Share of questions that come after all facts, as those of the tasks do."""
LEAF_SHARE = 0.7
"""Share of questions about chains that ask for the last name."""


class Kind(IntEnum):
    """What a token is to the loss."""

    UNPREDICTABLE = 0
    TEXT = 1
    ANSWER = 2


@dataclass(frozen=True)
class Insert:
    """A line that is set into the text: its tokens and their kinds."""

    tokens: list[int]
    kinds: list[int]


class DocumentMaker:
    """Draws documents of exact lengths from one tokenized text."""

    def __init__(self, text: Tokens, tokenizer: Tokenizer) -> None:
        self.text, self.tokenizer = text, tokenizer
        self.newline = self._ids("\n")[0]
        self.line_starts = np.flatnonzero(text == self.newline) + 1

    def plain(self, rng: random.Random, length: int) -> tuple[Tokens, Tokens]:
        """Tokens [length] and kinds [length] of a stretch of text that begins anywhere."""
        start = rng.randrange(len(self.text) - length)
        return self.text[start : start + length], np.full(length, Kind.TEXT)

    def with_facts(self, rng: random.Random, length: int, mix: Documents) -> tuple[Tokens, Tokens]:
        """Tokens [length] and kinds [length] of a stretch of text with facts and questions in it."""
        inserts = self._inserts(rng, length, mix)
        room = length - sum(len(insert.tokens) for insert in inserts)
        starts = self.line_starts[self.line_starts < len(self.text) - length]
        start = int(starts[rng.randrange(len(starts))])
        text = self.text[start : start + room]
        boundaries = [0, *(np.flatnonzero(text == self.newline) + 1).tolist()]
        places = sorted(rng.choice(boundaries) for _ in inserts)
        tokens, kinds, done = [], [], 0
        for place, insert in zip(places, inserts, strict=True):
            tokens += [*text[done:place], *insert.tokens]
            kinds += [Kind.TEXT] * (place - done) + insert.kinds
            done = place
        kinds += [Kind.TEXT] * (room - done)
        return np.array([*tokens, *text[done:]], np.int64), np.array(kinds, np.int64)

    def _inserts(self, rng: random.Random, length: int, mix: Documents) -> list[Insert]:
        """Facts and questions in the order of the document, at most `length` tokens together."""
        budget = length * rng.uniform(*mix.share)
        chains = self._draw(rng, mix)
        facts = shuffled_together(rng, chains)
        groups = [[self._fact(fact)] for fact in facts]
        used = sum(len(group[0].tokens) for group in groups)
        while True:
            name, known_after = self._pick(rng, chains, facts)
            asked = self._question(name, facts)
            used += len(asked.tokens)
            if used > budget and any(len(group) > 1 for group in groups):
                break
            if used > length:  # too little room even for one question: facts alone, as many as fit
                return _fitting([group[0] for group in groups], length)
            after = len(facts) - 1 if rng.random() < LATE_SHARE else rng.randint(known_after, len(facts) - 1)
            groups[after].insert(rng.randint(1, len(groups[after])), asked)
        return [insert for group in groups for insert in group]

    def _draw(self, rng: random.Random, mix: Documents) -> list[list[Fact]]:
        """Chains of facts; a fact alone is a chain of one."""
        count = rng.randint(1, mix.facts)
        alike = mix.alike > 0 and rng.random() < mix.alike
        if rng.random() >= mix.chains:
            return [[fact] for fact in draw_facts(rng, count, alike)]
        links = rng.randint(1, LINKS)
        return draw_chains(rng, max(1, count // (links + 1)), links, alike)

    def _pick(self, rng: random.Random, chains: list[list[Fact]], facts: list[Fact]) -> tuple[str, int]:
        """A name to ask for, and the place of the last fact that its answer needs."""
        chain = rng.choice(chains)
        end = len(chain) if rng.random() < LEAF_SHARE else rng.randint(1, len(chain))
        return chain[end - 1].name, max(facts.index(fact) for fact in chain[:end])

    def _fact(self, fact: Fact) -> Insert:
        tokens = self._ids(fact.line)
        return Insert(tokens, [Kind.TEXT, *[Kind.UNPREDICTABLE] * (len(tokens) - 2), Kind.TEXT])

    def _question(self, name: str, facts: list[Fact]) -> Insert:
        asked, answered = self._ids(question(name)), self._ids(answer(name, facts))
        kinds = [int(Kind.UNPREDICTABLE)] * len(asked) + [Kind.ANSWER] * len(answered) + [Kind.TEXT]
        return Insert([*asked, *answered, self.newline], kinds)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids


def _fitting(inserts: list[Insert], length: int) -> list[Insert]:
    """The first of them that are at most `length` tokens together."""
    ends = np.cumsum([len(insert.tokens) for insert in inserts])
    return inserts[: int((ends <= length).sum())]


def tokenize(text: str, tokenizer: Tokenizer, lines: int = 5000) -> Tokens:
    """Tokens of a long text, encoded some lines at a time (no token reaches across a newline)."""
    every = text.splitlines(keepends=True)
    pieces = ["".join(every[first : first + lines]) for first in range(0, len(every), lines)]
    return np.array([token for piece in pieces for token in tokenizer.encode(piece).ids], np.int64)
