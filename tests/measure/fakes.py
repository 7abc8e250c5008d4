"""A model of a few lines that honours the runner contract, a clock that runs as planted, and benches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from harness.contract.config import ModelConfig
from harness.contract.runner import Decoding, Runner, State
from harness.measure.clock import Clock
from harness.measure.measurement import Bench
from harness.suite.cell import CellId
from harness.suite.variant import Variant

VOCAB = 37

CONFIG = ModelConfig(
    model_type="deepseek_v3",
    vocab_size=VOCAB,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    kv_lora_rank=4,
    qk_nope_head_dim=4,
    qk_rope_head_dim=2,
    v_head_dim=4,
    max_position_embeddings=4096,
    index_topk=8,
)


class FakeState(State):
    """Keeps one vector a token."""

    def __init__(self, batch: int, max_len: int) -> None:
        self.cache_BSD = torch.full((batch, max_len, CONFIG.hidden_size), float("nan"))
        self.lengths_B = torch.zeros(batch, dtype=torch.int64)

    @property
    def bytes(self) -> int:
        return self.cache_BSD.nbytes

    @property
    def bytes_per_token(self) -> int:
        return CONFIG.hidden_size * 4

    def truncate(self, lengths_B: Sequence[int] | torch.Tensor) -> None:
        self.lengths_B = torch.as_tensor(lengths_B)

    def fill_random(self, seed: int, length: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.cache_BSD[:, :length] = torch.randn(self.cache_BSD[:, :length].shape, generator=generator)
        self.lengths_B = torch.full_like(self.lengths_B, length)


class FakeRunner(Runner):
    """Logits are a projection of the mean of all cached token vectors; `spoil` changes them as a fault would."""

    def __init__(self, spoil: Any = None, resolved: dict[str, str] | None = None) -> None:
        generator = torch.Generator().manual_seed(7)
        self.config, self.device = CONFIG, "cpu"
        self.embed_VD = torch.randn(VOCAB, CONFIG.hidden_size, generator=generator)
        self.head_DV = torch.randn(CONFIG.hidden_size, VOCAB, generator=generator)
        self.spoil = spoil or (lambda logits: logits)
        self.slots = resolved or {}
        self.prompts: list[torch.Tensor] = []
        self.lengths: list[int] = []

    def new_state(self, batch: int, max_len: int) -> FakeState:
        return FakeState(batch, max_len)

    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        assert isinstance(state, FakeState)
        self.prompts.append(tokens_BT)
        return self.spoil(self._append(tokens_BT, state)[:, -1])

    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        assert isinstance(state, FakeState)
        self.lengths.append(int(state.lengths_B[0]))
        return self.spoil(self._append(tokens_B[:, None], state)[:, -1])

    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        return self.spoil(self._append(tokens_BT, FakeState(*tokens_BT.shape)))

    @property
    def weight_bytes(self) -> int:
        return self.embed_VD.nbytes + self.head_DV.nbytes

    def resolved(self) -> dict[str, str]:
        return self.slots

    def _append(self, tokens_BT: torch.Tensor, state: FakeState) -> torch.Tensor:
        start, end = int(state.lengths_B[0]), int(state.lengths_B[0]) + tokens_BT.shape[1]
        state.cache_BSD[:, start:end] = self.embed_VD[tokens_BT]
        state.lengths_B = torch.full_like(state.lengths_B, end)
        mean_BTD = state.cache_BSD[:, :end].cumsum(1)[:, start:] / torch.arange(start + 1, end + 1)[:, None]
        return (mean_BTD + self.embed_VD[tokens_BT]) @ self.head_DV


class PlantedClock(Clock):
    """Advances by the next planted number of milliseconds at every mark; by one when none is left."""

    def __init__(self, steps: Sequence[float]) -> None:
        self.steps = list(steps)
        self.now = 0.0
        self.settled_at: list[float] = []

    def settle(self) -> None:
        self.settled_at.append(self.now)

    def mark(self) -> float:
        self.now += self.steps.pop(0) if self.steps else 1.0
        return self.now

    def between(self, marks: Sequence[float]) -> list[float]:
        return [after - before for before, after in pairwise(marks)]


def greedy(
    runner: Runner, tokens_BT: torch.Tensor, lengths_B: Any, new_tokens: int, stop: Any, on_token: Any = None
) -> list[list[int]]:
    """Plain greedy decoding."""
    state = runner.new_state(tokens_BT.shape[0], tokens_BT.shape[1] + new_tokens)
    logits_BV, rows = runner.prefill(tokens_BT, state), []
    for step in range(new_tokens):
        rows.append(logits_BV.argmax(-1))
        if on_token:
            on_token()
        if step + 1 < new_tokens:
            logits_BV = runner.decode(rows[-1], state)
    return torch.stack(rows, dim=1).tolist()


DENSE = Variant("native", "mha", "dense", "fp32", "latent", "eager", "plain")
MQA = DENSE.with_options({"form": "mqa"})
DSA = MQA.with_options({"selector": "dsa"})


def cell(kind: str, variant: Variant = DENSE) -> CellId:
    """A cell of table `t`."""
    return CellId("t", {"kind": kind, "length": 16}, variant)


def bench(folder: Path, runner: Runner | None = None, reference: CellId | None = None, decode: Any = greedy) -> Bench:
    """A bench over a fake runner, random prompts, seed 3."""
    parts = {"decoding": Decoding("plain", decode)}
    return Bench(runner or FakeRunner(), parts, "fake", 3, "cpu", folder, reference.id if reference else None)
