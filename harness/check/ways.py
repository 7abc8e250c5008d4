"""The ways of running a sequence that checks compare."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.contract.runner import Runner, State

LENGTH = 37
"""Odd, a prime, and more than twice the tiny presets' index_topk."""


def steps(runner: Runner, state: State, tokens_BT: Tensor) -> Tensor:
    """Prefill all but the last 4 tokens, then decode those: logits [B, 5, vocab]."""
    last = tokens_BT.shape[1] - 4
    given = [runner.prefill(tokens_BT[:, :last], state)]
    given += [runner.decode(tokens_BT[:, t], state) for t in range(last, last + 4)]
    return torch.stack(given, 1)


def every_way(runner: Runner, tokens_BT: Tensor) -> Tensor:
    """Logits of the whole, then of a prefill with 4 steps: [B, T + 5, vocab]."""
    state = runner.new_state(*tokens_BT.shape)
    return torch.cat([runner.logits(tokens_BT), steps(runner, state, tokens_BT)], 1)


def one_by_one(runner: Runner, tokens_BT: Tensor) -> Tensor:
    """`every_way` of each sequence alone, joined: [B, T + 5, vocab]."""
    return torch.cat([every_way(runner, tokens_BT[row : row + 1]) for row in range(tokens_BT.shape[0])])
