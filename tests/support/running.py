"""Ways of feeding the same tokens to a runner: whole, in chunks, one by one. All return logits to compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.contract.runner import Runner


def relative_l2(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """|actual - expected| / |expected|; NaN when either has one."""
    return ((actual - expected).norm() / expected.norm()).item()


def in_chunks(runner: Runner, tokens_BT: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Prefill in chunks of the given sizes, then decode what is left token by token.

    Returns the logits [B, n, vocab] after every chunk and every decoded token; compare with
    `runner.logits(tokens_BT)[:, ends(tokens_BT.shape[1], sizes)]`.
    """
    state = runner.new_state(*tokens_BT.shape)
    outputs, done = [], 0
    for size in sizes:
        outputs.append(runner.prefill(tokens_BT[:, done : done + size], state))
        done += size
    outputs += [runner.decode(tokens_BT[:, position], state) for position in range(done, tokens_BT.shape[1])]
    return torch.stack(outputs, 1)


def ends(length: int, sizes: Sequence[int]) -> list[int]:
    """Positions whose logits `in_chunks` returns."""
    after = [sum(sizes[: index + 1]) - 1 for index in range(len(sizes))]
    return after + list(range(sum(sizes), length))
