"""Prompts with an exact real token count: held-out text through the checkpoint's tokenizer, or random ids.

Every prompt follows from (suite seed, context, length, purpose, row) alone, so that all variants see the same
tokens, and no row and no repetition sees those of another: a prefix cache has nothing to hit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tokenizers
import torch

from harness import corpus
from harness.errors import UsageError
from harness.measure.measurement import Bench

Encode: TypeAlias = Callable[[str], list[int]]
"""Text to token ids."""

FIRST_GUESS = 4
"""Characters of text read per token that is needed; doubled until it is enough."""


@dataclass(frozen=True)
class Prompts:
    """A source of token ids int64 [B, T] for one cell."""

    context: str
    """`text` or `random`."""
    seed: int
    vocab_size: int
    encode: Encode | None = None
    """Needed for `text` only."""

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
        return {"context": "text", "text_sha256": corpus.split("held_out").sha256}

    def _row(self, seed: int, length: int) -> torch.Tensor:
        if self.context == "text":
            return torch.tensor(self._text_ids(seed, length))
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.vocab_size, (length,), generator=generator)

    def _text_ids(self, seed: int, length: int) -> list[int]:
        assert self.encode is not None, "prompts of text are made with an encoder"
        characters = FIRST_GUESS * length
        while True:
            ids = self.encode(corpus.held_out_text(characters, seed))
            if len(ids) >= length:
                return ids[:length]
            characters *= 2


def open_prompts(bench: Bench, context: str) -> Prompts:
    """The prompts of a cell. Raises UsageError when `text` is asked for and the checkpoint has no tokenizer."""
    if context != "text":
        return Prompts("random", bench.seed, bench.runner.config.vocab_size)
    encode = bench.shared.get(TextEncoder, lambda _: TextEncoder(bench.checkpoint))
    return Prompts("text", bench.seed, bench.runner.config.vocab_size, encode)


class TextEncoder:
    """Text to the ids of a checkpoint's tokenizer, without special tokens.

    `tokenizer.json` is read without transformers, whose import takes longer than many a cell. Raises UsageError when
    there is no tokenizer.
    """

    def __init__(self, checkpoint: str) -> None:
        file = Path(checkpoint) / "tokenizer.json"
        self._encode: Encode
        if file.is_file():
            fast = tokenizers.Tokenizer.from_file(str(file))
            fast.no_truncation()
            fast.no_padding()
            self._encode = lambda text: fast.encode(text, add_special_tokens=False).ids
        else:
            other = load_tokenizer(checkpoint)
            self._encode = lambda text: other.encode(text, add_special_tokens=False)

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def load_tokenizer(checkpoint: str) -> Any:
    """The tokenizer of a Hugging Face directory, as transformers gives it; UsageError when there is none."""
    if not any((Path(checkpoint) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise UsageError("no tokenizer there, so `context: text` is impossible; allowed: random, synthetic", checkpoint)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable; unlike `hash`, the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
