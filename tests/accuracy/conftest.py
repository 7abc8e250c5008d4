"""A tiny random V3 checkpoint with the byte tokenizer, and transformers as a plain runner over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contract.config import ModelConfig
from harness.contract.runner import Decoding, Runner, State
from tests.support.checkpoints import save_checkpoint
from tests.support.tokenizers import BOS_ID, EOS_ID, VOCAB_SIZE, byte_tokenizer

MAX_LENGTH = 640


class TransformersRunner(Runner):
    """The simplest runner: whole forward passes of a transformers model, no cache."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.config = ModelConfig.read(directory)
        self.device = "cpu"
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def new_state(self, batch: int, max_len: int) -> State:
        raise NotImplementedError

    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        raise NotImplementedError

    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        assert tokens_BT.shape[1] <= self.config.max_position_embeddings
        return self.model(tokens_BT).logits.float()


def generate(
    runner: Runner,
    tokens_BT: torch.Tensor,
    lengths_B: torch.Tensor,
    new_tokens: int,
    stop: tuple[int, ...],
    on_token: Any = None,
) -> list[list[int]]:
    """Greedy, one sequence at a time."""
    answers = []
    for row, length in zip(tokens_BT, lengths_B.tolist(), strict=True):
        tokens = row[:length].tolist()
        while len(tokens) < length + new_tokens and not (len(tokens) > length and tokens[-1] in stop):
            tokens.append(int(runner.logits(torch.tensor([tokens]))[0, -1].argmax()))
        answers.append(tokens[length:])
    return answers


PLAIN = Decoding("plain", generate)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_checkpoint(
        tmp_path_factory.mktemp("tiny") / "v3",
        "deepseek_v3",
        seed=3,
        vocab_size=VOCAB_SIZE,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        max_position_embeddings=MAX_LENGTH,
    )
    return byte_tokenizer(directory, MAX_LENGTH)


@pytest.fixture(scope="session")
def runner(checkpoint: Path) -> TransformersRunner:
    return TransformersRunner(checkpoint)


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)
