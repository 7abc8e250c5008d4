"""The outer contract: what an engine must do to be measured. Small on purpose.

Shape letters: B batch, T new tokens, S tokens in the cache. Tokens are int64, logits float32.
Sequences of one batch may have different lengths: tokens are padded on the right, `lengths_B` says how
many of the T columns are real; padded columns are never seen by attention and never counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from harness.contract.config import ModelConfig
from harness.suite.variant import Variant


@dataclass(frozen=True)
class EngineRequest:
    """What an engine builds a runner from."""

    checkpoint: str
    """A Hugging Face directory, or the name of a preset."""
    config: ModelConfig
    variant: Variant
    parts: dict[str, object]
    """The loaded object of every option of the variant, by axis (see `Option`); engines use what they take."""
    device: str = "cpu"
    seed: int = 0
    """Seed of the weights of a preset; a directory ignores it."""


class State(ABC):
    """What one batch of sequences keeps between calls: caches and lengths."""

    lengths_B: torch.Tensor
    """int64 [B]: how many tokens of each sequence are cached."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes allocated for the caches of all layers."""

    @property
    @abstractmethod
    def bytes_per_token(self) -> int:
        """Bytes that one token of one sequence occupies, summed over layers."""

    @abstractmethod
    def truncate(self, lengths_B: Sequence[int] | torch.Tensor) -> None:
        """Forget every token from position lengths_B[b] on. Raises ValueError for a length beyond the present one."""

    @abstractmethod
    def fill_random(self, seed: int, length: int) -> None:
        """Fill the first `length` positions with seeded content and set every length to it.

        The content depends on seed, layer, field and position alone (latents of unit RMS, rotary keys and index
        keys standard normal), so that every engine decodes over the same cache.
        """

    def storage(self) -> Iterable[torch.Tensor]:
        """The tensors that hold the caches, for checks that look at memory; nothing when they cannot be seen."""
        return ()


class Runner(ABC):
    """One built model, ready to be measured."""

    config: ModelConfig
    device: str

    @abstractmethod
    def new_state(self, batch: int, max_len: int) -> State:
        """Preallocated, empty caches for `batch` sequences of at most `max_len` tokens.

        Raises UsageError when max_len exceeds the model's max_position_embeddings.
        """

    @abstractmethod
    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """Append tokens to the state; float32 logits [B, vocab] after the last real token of each sequence.

        Callable again to continue with the next chunk.
        """

    @abstractmethod
    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        """Append one token to every sequence; float32 logits [B, vocab]."""

    def replayed_decode(self, state: State) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """`decode` on this very state as the replay of a captured CUDA graph; None where an engine captures none.

        Takes tokens int64 [B] and returns what `decode` would. Captured here, before any clock starts; decode cells are
        timed through it when there is one, and their records say so.
        """
        return None

    @abstractmethod
    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """float32 logits [B, T, vocab] at every position of fresh sequences (padded columns are arbitrary)."""

    def score(
        self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For every position but the first: log-probability of the token there, and whether it is the argmax.

        Returns float32 [B, T-1] (natural logarithm) and bool [B, T-1]. Engines with a large vocabulary override
        this to avoid holding all logits.
        """
        logits_BTV = self.logits(tokens_BT, lengths_B)[:, :-1]
        targets_BT = tokens_BT[:, 1:].to(logits_BTV.device)
        chosen_BT = logits_BTV.gather(-1, targets_BT[..., None]).squeeze(-1)
        return chosen_BT - logits_BTV.logsumexp(-1), logits_BTV.argmax(-1) == targets_BT

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of all weights as this engine keeps them (see `module_bytes`); None when it cannot tell."""
        return None

    def resolved(self) -> dict[str, str]:
        """What really computes, slot by slot (operator -> implementation), stored with every record.

        A value ends in ` (emulated)` or ` (interpreted)` when its arithmetic is right but its speed says nothing (FP8
        on a device without FP8 units, Triton on a CPU): such a cell is checked, and never timed.
        """
        return {}


def module_bytes(module: torch.nn.Module) -> int:
    """Bytes behind a module's parameters and buffers; tensors that share storage, such as tied heads, count once."""
    storages = [tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@dataclass(frozen=True)
class Decoding:
    """How tokens are produced, one option of the decoding axis.

    `generate(runner, tokens_BT, lengths_B, new_tokens, stop, on_token=None)` returns greedy token ids, one list a
    sequence, ended after `new_tokens` or after the first id in `stop`. `on_token()` is called, without arguments, each
    time that new tokens of the batch are known on the host: first after the prefill (the first token of every
    sequence), then after every decoded step. Timing hangs on it.
    """

    name: str
    generate: Callable[..., list[list[int]]]
