"""Greedy answers: the logits along a given one, and where two of them part."""

from __future__ import annotations

import torch

from harness.contract.runner import Runner, State


def forced_logits(runner: Runner, prompts_BT: torch.Tensor, answer_BT: torch.Tensor) -> tuple[State, torch.Tensor]:
    """float32 logits [B, T', vocab] that `runner` has at every token of `answer_BT` [B, T'], by prefill and decode.

    Also returns the state that they were made with.
    """
    batch, steps = answer_BT.shape
    state = runner.new_state(batch, prompts_BT.shape[1] + steps)
    rows = [runner.prefill(prompts_BT, state)]
    rows += [runner.decode(answer_BT[:, step], state) for step in range(steps - 1)]
    return state, torch.stack(rows, dim=1)


def first_differences(own_BT: torch.Tensor, other_BT: torch.Tensor) -> list[int]:
    """For every sequence, how many tokens come before the first that differs; T when none does."""
    differs_BT = own_BT.cpu() != other_BT.cpu()
    first_B = differs_BT.int().argmax(dim=1)
    return [int(first) if bool(row.any()) else row.numel() for row, first in zip(differs_BT, first_B, strict=True)]
