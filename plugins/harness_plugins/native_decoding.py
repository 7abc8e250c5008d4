"""Plain greedy decoding: prefill, then one token per step and sequence, whatever the engine."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from harness.contract.runner import Decoding, Runner


def generate(
    runner: Runner,
    tokens_BT: torch.Tensor,
    lengths_B: torch.Tensor | None,
    new_tokens: int,
    stop: Collection[int] = (),
    on_token: Callable[[], None] | None = None,
) -> list[list[int]]:
    """Greedy continuation of every sequence: at most `new_tokens` ids, the first one in `stop` included.

    `on_token` is called when a step's tokens are known, the first time after prefill. Sequences that have stopped
    keep their place in the batch until the last one stops; their further tokens are dropped.
    """
    batch, width = tokens_BT.shape
    state = runner.new_state(batch, width + max(new_tokens - 1, 0))
    answers: list[list[int]] = [[] for _ in range(batch)]
    open_rows = set(range(batch)) if new_tokens else set()
    next_B: torch.Tensor | None = None
    while open_rows:
        logits_BV = runner.prefill(tokens_BT, state, lengths_B) if next_B is None else runner.decode(next_B, state)
        next_B = logits_BV.argmax(-1)
        chosen = next_B.tolist()
        if on_token is not None:
            on_token()
        for row in sorted(open_rows):
            answers[row].append(chosen[row])
            if chosen[row] in stop or len(answers[row]) == new_tokens:
                open_rows.discard(row)
    return answers


PLAIN = Decoding("plain", generate)
