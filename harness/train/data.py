"""Training batches: windows of the corpus's training text. A batch depends on seed, stage and step alone.

So a run that was stopped goes on with the very batches that it would have seen, and nothing has to be saved for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness import corpus
from harness.train.recipe import Recipe
from harness.train.tokenizer import BOS_ID


@dataclass(frozen=True)
class Batches:
    """The endless batches of one recipe."""

    recipe: Recipe
    text: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, recipe: Recipe) -> Batches:
        """Batches over the corpus's training side."""
        return cls(recipe, np.frombuffer(corpus.split("train").text.encode(), np.uint8))

    def get(self, stage: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets, int64 [B, T] each, of step `step` of stage number `stage`."""
        shape = self.recipe.stages[stage]
        rng = np.random.default_rng([self.recipe.seed, stage, step])
        starts = rng.integers(0, len(self.text) - shape.length, shape.batch)
        windows = self.text[starts[:, None] + np.arange(shape.length + 1)].astype(np.int64)
        with_bos = rng.random(shape.batch) < self.recipe.bos_share
        # A sequence with bos ends one byte earlier, so that all have the same length.
        windows[with_bos, 1:] = windows[with_bos, :-1]
        windows[with_bos, 0] = BOS_ID
        tokens = torch.from_numpy(windows)
        return tokens[:, :-1], tokens[:, 1:]
