"""Documents of the project's own lm-eval tasks, made from held-out text of the corpus; no data file is kept.

The YAML files under `harness/tasks` name these functions as `custom_dataset`. lm-eval calls them with the task's
`metadata` joined with the task manager's, which brings the tokenizer: `tokenizer` or `pretrained`, as in lm-eval's
own generated tasks. A length is a count of real tokens, exact for whatever tokenizer the model has: with another
tokenizer the documents are others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from harness.corpus import split
from harness.errors import UsageError
from harness.measure.encoder import Encoder

if TYPE_CHECKING:
    import datasets

CHOICES = 4
CONTINUATION_TOKENS = 32
ATTEMPTS = 200
"""Draws per document before giving up: with merging tokenizers some cuts do not re-encode to the same length."""


def bits_per_byte(
    length: int,
    documents: int = 256,
    seed: int = 0,
    tokenizer: str = "",
    pretrained: str = "",
    limit: int | None = None,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """Documents `{text}`, each a stretch of held-out text of exactly `length` tokens."""
    encoder = Encoder.of(tokenizer or pretrained)

    def draw(rng: random.Random, text: str) -> dict[str, Any] | None:
        piece = encoder.head(text[rng.randrange(len(text)) :], length)
        return None if piece is None else {"text": piece}

    return _test_split(islice(_documents(draw, documents, seed), limit))


def continuation(
    length: int,
    documents: int = 256,
    seed: int = 0,
    tokenizer: str = "",
    pretrained: str = "",
    limit: int | None = None,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """Documents `{context, choices, gold}`: which of four pieces of real code follows the context?

    Context and any choice together are exactly `length` tokens, of which a choice is `CONTINUATION_TOKENS`. All
    choices start with a line that is not blank; the three wrong ones come from elsewhere in the held-out text.
    """
    encoder = Encoder.of(tokenizer or pretrained)

    def draw(rng: random.Random, text: str) -> dict[str, Any] | None:
        start = _line_start(rng, text)
        context = encoder.tail(text[:start], length - CONTINUATION_TOKENS)
        true = encoder.head(text[start:], CONTINUATION_TOKENS)
        if context is None or true is None:
            return None
        wrong = [encoder.head(piece, CONTINUATION_TOKENS) for piece in _elsewhere(rng, text, CHOICES - 1)]
        if any(piece is None or encoder.count(context + piece) != length for piece in [true, *wrong]) or true in wrong:
            return None
        gold = rng.randrange(CHOICES)
        return {"context": context, "choices": [*wrong[:gold], true, *wrong[gold:]], "gold": gold}

    return _test_split(islice(_documents(draw, documents, seed), limit))


def _documents(
    draw: Callable[[random.Random, str], dict[str, Any] | None], documents: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One document from each of `documents` equal strata of the held-out text, in shuffled order.

    Strata keep documents from overlapping, so that they are independent samples; the shuffle makes a `limit`
    take some of every module.
    """
    text = split("held_out").text
    size = len(text) // documents
    order = random.Random(seed).sample(range(documents), documents)
    for stratum in order:
        rng = random.Random(seed * documents + stratum)
        piece = text[stratum * size : (stratum + 1) * size]
        drawn = next((document for _ in range(ATTEMPTS) if (document := draw(rng, piece)) is not None), None)
        if drawn is None:
            raise UsageError(f"{documents} documents of this length do not fit: each has {size} characters of text")
        yield drawn


def _line_start(rng: random.Random, text: str) -> int:
    """Where some line that is not blank begins."""
    starts = [at + 1 for at, character in enumerate(text[:-1]) if character == "\n" and text[at + 1] != "\n"]
    return rng.choice(starts)


def _elsewhere(rng: random.Random, text: str, count: int) -> Iterator[str]:
    """Stretches of held-out text outside `text` that begin with a line that is not blank."""
    everything = split("held_out").text
    at_home = everything.index(text)
    while count:
        start = everything.find("\n", rng.randrange(len(everything))) + 1
        if at_home <= start < at_home + len(text) or everything[start : start + 1] in ("", "\n"):
            continue
        count -= 1
        yield everything[start : start + 64 * CONTINUATION_TOKENS]


def _test_split(documents: Iterable[dict[str, Any]]) -> dict[str, datasets.Dataset]:
    import datasets

    return {"test": datasets.Dataset.from_list(list(documents))}
