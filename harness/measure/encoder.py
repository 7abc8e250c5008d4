"""Text cut to an exact number of tokens of whatever tokenizer the model has, for prompts and tasks of real lengths."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from harness.errors import UsageError

FIRST_GUESS = 4
"""Characters of text encoded per token that is wanted; doubled until it is enough."""

CUTS = 3
"""Tries to cut a text before giving up."""


class Encoder:
    """Counts and cuts text by the tokens of one Hugging Face tokenizer; special tokens that it adds are not counted."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, name: str) -> Encoder:
        """The encoder of a checkpoint directory or hub name; UsageError when there is none."""
        if not name:
            raise UsageError("this task sizes its documents in tokens: give the model's `tokenizer` or `pretrained`")
        return cls(_tokenizer(name))

    @property
    def rules(self) -> str | None:
        """Everything that decides which tokens a text becomes; None for a tokenizer that cannot say it."""
        from tokenizers import __version__

        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return None if backend is None else f"{__version__} {backend.to_str()}"

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._ids(text))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of every text, each encoded alone."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def head(self, text: str, tokens: int) -> str | None:
        """The beginning of `text` that is exactly `tokens` tokens long; None when no cut there re-encodes so."""
        characters = FIRST_GUESS * tokens
        while len(ids := self._ids(text[: characters + 1])) <= tokens and characters < len(text):
            characters *= 2
        piece = self._exact(tokens, lambda count: self._decode(ids[:count]))
        return piece if piece is not None and text.startswith(piece) else None

    def tail(self, text: str, tokens: int) -> str | None:
        """The end of `text` that is exactly `tokens` tokens long; None when no cut there re-encodes so."""
        characters = FIRST_GUESS * tokens
        while len(ids := self._ids(text[-characters - 1 :])) <= tokens and characters < len(text):
            characters *= 2
        piece = self._exact(tokens, lambda count: self._decode(ids[-count:]))
        return piece if piece is not None and text.endswith(piece) else None

    def _exact(self, tokens: int, cut: Callable[[int], str]) -> str | None:
        """The piece that is `tokens` tokens long encoded alone, where it can have more or fewer than it was cut to."""
        wanted = tokens
        for _ in range(CUTS):
            piece = cut(wanted)
            over = self.count(piece) - tokens
            if over == 0:
                return piece
            wanted -= over
        return None

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text


@functools.cache
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)
