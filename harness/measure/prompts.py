"""Prompts with an exact real token count: held-out text through the checkpoint's tokenizer, or random ids.

Every prompt follows from (suite seed, context, length, purpose, row) alone, so that all variants see the same
tokens, and no row and no repetition sees those of another: a prefix cache has nothing to hit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import corpus
from harness.errors import UsageError
from harness.measure.measurement import Bench

FIRST_GUESS = 4
"""Characters of text read per token that is needed; doubled until it is enough."""


@dataclass(frozen=True)
class Prompts:
    """A source of token ids int64 [B, T] for one cell."""

    context: str
    """`text` or `random`."""
    seed: int
    vocab_size: int
    tokenizer: Any = None
    """A Hugging Face tokenizer; needed for `text` only."""

    def tokens(self, batch: int, length: int, purpose: str) -> torch.Tensor:
        """int64 [batch, length] on the CPU; `purpose` (such as `timed 3`) makes them new.

        Raises UsageError when there is not that much held-out text.
        """
        seeds = [derived_seed(self.seed, self.context, length, purpose, row) for row in range(batch)]
        return torch.stack([self._row(seed, length) for seed in seeds])

    def facts(self) -> dict[str, Any]:
        """What a record says about the prompts; results over unlike text are not compared."""
        if self.context != "text":
            return {"context": self.context}
        return {"context": "text", "text_sha256": corpus.text_hashes()["held_out"]}

    def _row(self, seed: int, length: int) -> torch.Tensor:
        if self.context == "text":
            return torch.tensor(self._text_ids(seed, length))
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.vocab_size, (length,), generator=generator)

    def _text_ids(self, seed: int, length: int) -> list[int]:
        characters = FIRST_GUESS * length
        while True:
            ids: list[int] = self.tokenizer.encode(corpus.held_out_text(characters, seed), add_special_tokens=False)
            if len(ids) >= length:
                return ids[:length]
            characters *= 2


def open_prompts(bench: Bench, context: str) -> Prompts:
    """The prompts of a cell. Raises UsageError when `text` is asked for and the checkpoint has no tokenizer."""
    tokenizer = load_tokenizer(bench.checkpoint) if context == "text" else None
    return Prompts("text" if context == "text" else "random", bench.seed, bench.runner.config.vocab_size, tokenizer)


def load_tokenizer(checkpoint: str) -> Any:
    """The tokenizer of a Hugging Face directory; UsageError when there is none."""
    if not any((Path(checkpoint) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise UsageError("no tokenizer there, so `context: text` is impossible; allowed: random, synthetic", checkpoint)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable; unlike `hash`, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
