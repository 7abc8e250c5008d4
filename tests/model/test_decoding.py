"""Plain greedy decoding over any runner."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.native_decoding import generate

from harness import load_runner
from harness.contract.runner import Runner
from harness.errors import UsageError
from tests.support.checkpoints import random_tokens

TOKENS = random_tokens(3, 12, vocab_size=128)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return load_runner("tiny-v3", form="mqa")


def _greedy(runner: Runner, prompt_T: torch.Tensor, new_tokens: int) -> list[int]:
    """By whole prefills only: the highest logit after everything so far."""
    for _ in range(new_tokens):
        prompt_T = torch.cat([prompt_T, runner.logits(prompt_T[None])[0, -1:].argmax(-1)])
    return prompt_T[-new_tokens:].tolist()


def test_the_continuation_is_the_highest_logit_each_time(runner: Runner) -> None:
    lengths_B = torch.tensor([12, 5, 9])
    steps = []
    answers = generate(runner, TOKENS, lengths_B, 6, on_token=lambda: steps.append(1))
    assert answers == [_greedy(runner, TOKENS[b, :length], 6) for b, length in enumerate(lengths_B.tolist())]
    assert len(steps) == 6


def test_a_stop_id_ends_its_own_sequence(runner: Runner) -> None:
    free = generate(runner, TOKENS, None, 6)
    stop = free[0][2]
    stopped = generate(runner, TOKENS, None, 6, stop={stop})
    for without, with_stop in zip(free, stopped, strict=True):
        end = without.index(stop) + 1 if stop in without else 6
        assert with_stop == without[:end]
    assert len(stopped[0]) <= 3


@pytest.mark.parametrize("new_tokens", [0, 1])
def test_few_tokens(new_tokens: int, runner: Runner) -> None:
    assert [len(answer) for answer in generate(runner, TOKENS, None, new_tokens)] == [new_tokens] * 3


def test_a_context_that_would_grow_too_long_is_refused_at_once(runner: Runner) -> None:
    with pytest.raises(UsageError, match="max_position_embeddings is 4096"):
        generate(runner, TOKENS, None, 4086)
