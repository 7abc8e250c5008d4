"""Training batches from the corpus's training text. A batch depends on seed, stage and step alone.

So a run that was stopped goes on with the very batches that it would have seen, and nothing has to be saved for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness import corpus
from harness.retrieval import draw_facts, question
from harness.train.documents import DocumentMaker, Kind, tokenize
from harness.train.recipe import Recipe, Stage
from harness.train.tokenizer import BOS_ID, learn_tokenizer

LINES_PER_TEXT = 1000
FACT_TEXTS, FACTS_PER_TEXT = 5000, 40
"""Documents of facts alone that the tokenizer learns from, enough to make every name and pair of digits one token."""


@dataclass(frozen=True)
class Batch:
    """Inputs, next-token targets and the targets' kinds (`documents.Kind`), int64 [B, T] each."""

    inputs_BT: Tensor
    targets_BT: Tensor
    kinds_BT: Tensor


class Batches:
    """The endless batches of one recipe."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe = recipe
        text = training_text()
        self.maker = DocumentMaker(tokenize(text, tokenizer), tokenizer)
        self.bytes_per_token = len(text.encode()) / len(self.maker.text)

    def get(self, stage: int, step: int) -> Batch:
        """The batch of step `step` of stage number `stage`."""
        shape = self.recipe.stages[stage]
        rng = random.Random(f"{self.recipe.seed}/{stage}/{step}")
        drawn = [self._sequence(rng, shape) for _ in range(shape.batch)]
        tokens_BT = torch.from_numpy(np.stack([tokens for tokens, _ in drawn]))
        kinds_BT = torch.from_numpy(np.stack([kinds for _, kinds in drawn]))
        return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], kinds_BT[:, 1:])

    def _sequence(self, rng: random.Random, shape: Stage) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and kinds of length + 1, with bos before some of them, as before documents at evaluation."""
        with_bos = rng.random() < self.recipe.bos_share
        length = shape.length + 1 - with_bos
        mix = shape.documents
        if mix is None or rng.random() < mix.plain:
            tokens, kinds = self.maker.plain(rng, length)
        else:
            tokens, kinds = self.maker.with_facts(rng, length, mix)
        if with_bos:
            tokens, kinds = np.concatenate([[BOS_ID], tokens]), np.concatenate([[Kind.TEXT], kinds])
        return tokens, kinds


def training_text() -> str:
    """What is learned from: the corpus's training side."""
    return corpus.split("train").text


def training_tokenizer(vocab_size: int) -> Tokenizer:
    """The tokenizer of the training text and of facts and questions."""
    lines = training_text().splitlines(keepends=True)
    texts = ["".join(lines[first : first + LINES_PER_TEXT]) for first in range(0, len(lines), LINES_PER_TEXT)]
    rng = random.Random(0)
    facts = [draw_facts(rng, FACTS_PER_TEXT) for _ in range(FACT_TEXTS)]
    asked = ["".join(f"{fact.line}{question(fact.name)} {fact.value}\n" for fact in some) for some in facts]
    return learn_tokenizer(texts + asked, vocab_size)
