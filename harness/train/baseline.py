"""The byte-trigram baseline: what counting alone predicts, so that a trained model has something to beat.

Dirichlet smoothing with backoff (MacKay & Peto 1995, "A hierarchical Dirichlet language model"): the trigram's
counts are topped up with pseudo-counts shaped like the bigram's prediction, those of the bigram with the unigram's,
and those of the unigram with a uniform distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BYTES = 256
PSEUDO_COUNTS = (1.0, 128.0, 64.0)
"""Weight of what is backed off to, for unigram, bigram and trigram: near the best on the training text's own tail."""


@dataclass(frozen=True)
class TrigramModel:
    """Counts of bytes [256], pairs [256^2] and triples [256^3] of a text, and of the contexts before a byte."""

    ones: npt.NDArray[np.int64]
    twos: npt.NDArray[np.int64]
    threes: npt.NDArray[np.int64]
    before_twos: npt.NDArray[np.int64]
    """[256]: how often a byte was followed by any other."""
    before_threes: npt.NDArray[np.int64]
    """[256^2]: how often a pair was."""

    @classmethod
    def fit(cls, text: bytes) -> TrigramModel:
        """Count a text of at least three bytes."""
        data, pairs, triples = _coded(text)
        return cls(
            ones=np.bincount(data, minlength=BYTES),
            twos=np.bincount(pairs, minlength=BYTES**2),
            threes=np.bincount(triples, minlength=BYTES**3),
            before_twos=np.bincount(data[:-1], minlength=BYTES),
            before_threes=np.bincount(pairs[:-1], minlength=BYTES**2),
        )

    def bits_per_byte(self, texts: Sequence[bytes]) -> float:
        """Mean of -log2 p(byte | at most two bytes before it) over all bytes; every text starts without context."""
        bits = sum(-np.log2(self.probabilities(text)).sum() for text in texts)
        return float(bits) / sum(map(len, texts))

    def probabilities(self, text: bytes) -> npt.NDArray[np.float64]:
        """p of every byte of one text, float64 [length]."""
        data, pairs, triples = _coded(text)
        for_one, for_two, for_three = PSEUDO_COUNTS
        p = (self.ones[data] + for_one / BYTES) / (self.ones.sum() + for_one)
        p[1:] = (self.twos[pairs] + for_two * p[1:]) / (self.before_twos[data[:-1]] + for_two)
        p[2:] = (self.threes[triples] + for_three * p[2:]) / (self.before_threes[pairs[:-1]] + for_three)
        return p


def _coded(text: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every byte, pair and triple of a text as one number."""
    data = np.frombuffer(text, np.uint8).astype(np.int64)
    pairs = data[:-1] * BYTES + data[1:]
    return data, pairs, pairs[:-1] * BYTES + data[2:]
