"""The trigram baseline is a probability distribution, and no worse than it should be."""

from __future__ import annotations

import math
import random

import pytest

from harness import corpus
from harness.train.baseline import TrigramModel

TEXT = corpus.split("train").text.encode()[:200_000]


@pytest.fixture(scope="module")
def model() -> TrigramModel:
    return TrigramModel.fit(TEXT)


@pytest.mark.parametrize("context", [b"", b"d", b"de", b"\xff\xfe", b"zq"])
def test_probabilities_sum_to_one(model: TrigramModel, context: bytes) -> None:
    total = sum(model.probabilities(context + bytes([byte]))[-1] for byte in range(256))
    assert total == pytest.approx(1.0)


def test_counts_by_hand() -> None:
    model = TrigramModel.fit(b"aab" * 1000)
    # After "aa" always "b": 1000 of 1000, and the pseudo-counts follow the bigram.
    bigram = (1000 + 128 * (1000 + 1 / 256) / 3001) / (2000 + 128)
    assert model.probabilities(b"aab")[2] == pytest.approx((1000 + 64 * bigram) / (1000 + 64), rel=1e-6)


def test_bits_per_byte(model: TrigramModel) -> None:
    held_out = corpus.held_out_text(20_000, seed=1).encode()
    noise = random.Random(0).randbytes(20_000)
    assert 2.0 < model.bits_per_byte([held_out]) < 3.6
    assert model.bits_per_byte([noise]) > 8.0
    assert model.bits_per_byte([TEXT]) < model.bits_per_byte([held_out])


def test_every_text_starts_anew(model: TrigramModel) -> None:
    apart = model.bits_per_byte([b"def ", b"self"])
    alone = [model.bits_per_byte([text]) for text in (b"def ", b"self")]
    assert apart == pytest.approx(sum(alone) / 2)
    assert math.isfinite(apart)
