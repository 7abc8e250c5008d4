"""Held-out text by its lines, from which the retrieval tasks take stretches of a wanted number of tokens."""

from __future__ import annotations

import functools
import hashlib
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from harness.corpus import split
from harness.kept import Kept, cache_folder
from harness.measure.encoder import Encoder


@dataclass(frozen=True)
class Haystack:
    """Lines of the held-out text, each with its newline, and the tokens up to the start of each, lines counted alone.

    With a tokenizer whose tokens reach across newlines the counts are estimates; whoever needs exact ones counts again.
    """

    lines: Sequence[str]
    starts: Sequence[int]
    """One more than there are lines: the last is the number of all tokens."""

    @classmethod
    @functools.cache
    def of(cls, tokenizer: str) -> Haystack:
        """The whole held-out text in the tokens of a checkpoint directory or hub name."""
        lines = [f"{line}\n" for line in split("held_out").text.split("\n")[:-1]]
        return cls(lines, [0, *accumulate(_counts(lines, Encoder.of(tokenizer)))])

    @property
    def tokens(self) -> int:
        """Tokens of the whole text."""
        return self.starts[-1]

    def blocks(self, count: int) -> list[range]:
        """The text in `count` parts of consecutive lines, of about as many tokens each; no line is in two of them."""
        cuts = [bisect_left(self.starts, self.tokens * part // count) for part in range(count + 1)]
        return [range(first, last) for first, last in pairwise(cuts)]

    def end(self, rng: random.Random, block: range, tokens: int) -> int | None:
        """A random line of a block with at least `tokens` tokens of the block before it; None when it has less."""
        lowest = bisect_left(self.starts, self.starts[block.start] + tokens)
        return rng.randint(lowest, block.stop) if lowest <= block.stop else None

    def before(self, end: int, tokens: int) -> range:
        """The fewest consecutive lines up to `end`, itself excluded, that have at least `tokens` tokens."""
        return range(bisect_right(self.starts, self.starts[end] - tokens) - 1, end)


def _counts(lines: Sequence[str], encoder: Encoder) -> list[int]:
    """Tokens of every line. Counting takes seconds and is the same in every worker of a run, so it is kept."""
    rules = encoder.rules
    if rules is None:
        return encoder.counts(lines)
    kept = Kept(cache_folder("tokens"), list[int])
    key = hashlib.sha256("".join([*lines, rules]).encode()).hexdigest()
    counts = kept.get(key)
    if counts is None or len(counts) != len(lines):
        counts = encoder.counts(lines)
        kept.put(key, counts)
    return counts
