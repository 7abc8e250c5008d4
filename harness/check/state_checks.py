"""Checks of what an engine keeps between calls (`State`): they hold for any engine, as those of `runner_checks` do."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.check.subject import Subject
from harness.check.verdict import NotApplicableError, require, require_close
from harness.check.ways import LENGTH, steps
from harness.errors import UsageError


def truncate_then_continue_equals_fresh(subject: Subject) -> None:
    """After truncate, other tokens continue as if the forgotten ones had never been; to 0 as in a new state."""
    runner, tokens_BT, other_BT = subject.runner, subject.tokens(2, LENGTH), subject.tokens(2, LENGTH, seed=1)
    state = runner.new_state(2, LENGTH)
    runner.prefill(tokens_BT, state)
    state.truncate([30, 11])
    given = [runner.decode(other_BT[:, t], state) for t in range(4)]
    for row, kept in enumerate((30, 11)):
        fresh_T = torch.cat([tokens_BT[row, :kept], other_BT[row, :4]])
        wanted_TV = runner.logits(fresh_T[None])[0, kept:]
        subject.same(torch.stack([each[row] for each in given]), wanted_TV, f"4 steps after truncating to {kept}")
    state.truncate(torch.tensor([0, 0]))
    fresh = steps(runner, runner.new_state(2, LENGTH), other_BT)
    subject.same(steps(runner, state, other_BT), fresh, "a state truncated to 0 and used again")


def unused_memory_is_never_read(subject: Subject) -> None:
    """NaN in every byte of the caches that no token has been written to changes nothing."""
    runner, tokens_BT = subject.runner, subject.tokens(2, LENGTH)
    wanted = steps(runner, runner.new_state(2, LENGTH + 8), tokens_BT)
    state = runner.new_state(2, LENGTH + 8)
    storage = list(state.storage())
    if not storage:
        raise NotApplicableError("a new state of this engine has no memory yet: it grows as tokens come")
    for tensor in storage:
        _poison(tensor)
    given = steps(runner, state, tokens_BT)
    require(bool(given.isfinite().all()), "NaN from memory that no token was written to reached the logits")
    subject.same(given, wanted, "logits over poisoned memory")
    ragged = runner.new_state(2, LENGTH + 8)
    for tensor in ragged.storage():
        _poison(tensor)
    runner.prefill(tokens_BT, ragged, torch.tensor([LENGTH, 3]))
    last_BV = runner.decode(tokens_BT[:, 0], ragged)
    require(bool(last_BV.isfinite().all()), "NaN behind the shorter sequence of a ragged batch reached the logits")


def bytes_are_declared(subject: Subject) -> None:
    """A full state takes bytes_per_token for each of its tokens, no more and no less."""
    state = subject.runner.new_state(2, LENGTH)
    subject.runner.prefill(subject.tokens(2, LENGTH), state)
    declared = state.bytes_per_token * 2 * LENGTH
    require(
        state.bytes == declared, f"a full state of 2 x {LENGTH} tokens has {state.bytes} bytes, declared {declared}"
    )
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.storage())
    require(held in (0, state.bytes), f"its tensors hold {held} bytes, it reports {state.bytes}")


def full_states_refuse(subject: Subject) -> None:
    """Tokens beyond max_len, states beyond max_position_embeddings and empty calls are refused, and change nothing."""
    runner, tokens_BT = subject.runner, subject.tokens(2, LENGTH)
    state = runner.new_state(2, 20)
    wanted_BTV = runner.logits(tokens_BT[:, :20])
    runner.prefill(tokens_BT[:, :18], state)
    refused = {
        "3 tokens into room for 2": lambda: runner.prefill(tokens_BT[:, :3], state),
        "a prefill of no tokens": lambda: runner.prefill(tokens_BT[:, :0], state),
        "tokens for 3 sequences into a state for 2": lambda: runner.prefill(subject.tokens(3, 1), state),
        "truncating to more than there is": lambda: state.truncate([19, 18]),
        "a state longer than the model": lambda: runner.new_state(1, subject.config.max_position_embeddings + 1),
    }
    for what, call in refused.items():
        try:
            call()
        except (UsageError, ValueError):
            continue
        require(False, f"{what} is accepted; UsageError or ValueError is due")
    given = [runner.decode(tokens_BT[:, t], state) for t in (18, 19)]
    subject.same(torch.stack(given, 1), wanted_BTV[:, 18:], "steps after refused calls")


def synthetic_context_is_the_declared_one(subject: Subject) -> None:
    """Steps over fill_random equal the reference's over the same seed: all engines decode over one content."""
    tokens_BT, seed = subject.tokens(2, 3), 11
    answers = []
    mine, reference, allowed = subject.beside_reference()
    for runner in (mine, reference):
        state = runner.new_state(2, LENGTH + 3)
        state.fill_random(seed, LENGTH)
        require(state.lengths_B.tolist() == [LENGTH] * 2, f"lengths are {state.lengths_B.tolist()} after fill_random")
        answers.append(torch.stack([runner.decode(tokens_BT[:, t], state) for t in range(3)], 1))
    require_close(answers[0], answers[1], allowed, "3 steps over a synthetic context")


def _poison(tensor: Tensor) -> None:
    """NaN everywhere; packed formats (integers) get all bits set, which is NaN in FP8 and in floats."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(-1 if tensor.dtype.is_signed else torch.iinfo(tensor.dtype).max)
