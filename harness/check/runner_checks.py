"""Checks of a whole variant through the outer contract (`Runner`, `State`): they hold for any engine.

Each function is one check: its name stands in the table, the first line of its docstring says what must hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.check.subject import Subject
from harness.check.verdict import NotApplicableError, require, require_equal
from harness.contract.runner import Runner, State
from harness.errors import UsageError

LENGTH = 37
"""Odd, a prime, and more than twice the tiny presets' index_topk."""

VISIBLE = 1e-3
"""Relative L2 that a change which must show has to exceed in the typical row; true ones are near 1."""


# --- the right numbers -----------------------------------------------------------------------------


def equals_reference(subject: Subject) -> None:
    """Logits equal those of the FP64 reference with the same weights and selector."""
    tokens_BT = subject.tokens(2, LENGTH)
    given, wanted = subject.runner.logits(tokens_BT), subject.reference.logits(tokens_BT)
    subject.same(given, wanted, f"logits of {_size(tokens_BT)} tokens")


def logits_are_float32(subject: Subject) -> None:
    """logits, prefill and decode answer in float32, in the shapes of the contract, and are finite."""
    tokens_BT, vocab = subject.tokens(2, LENGTH), subject.config.vocab_size
    state = subject.runner.new_state(2, LENGTH + 1)
    answers = {
        "logits": (subject.runner.logits(tokens_BT), (2, LENGTH, vocab)),
        "prefill": (subject.runner.prefill(tokens_BT, state), (2, vocab)),
        "decode": (subject.runner.decode(tokens_BT[:, 0], state), (2, vocab)),
    }
    for name, (given, shape) in answers.items():
        require(given.dtype == torch.float32, f"{name} answers in {given.dtype}, expected torch.float32")
        require(tuple(given.shape) == shape, f"{name} has shape {tuple(given.shape)}, expected {shape}")
        require(bool(given.isfinite().all()), f"{name}: {int((~given.isfinite()).sum())} values are NaN or infinite")


def scores_are_of_the_logits(subject: Subject) -> None:
    """score gives the log-probability of every next token, and whether it is the likeliest."""
    tokens_BT = subject.tokens(2, LENGTH)
    given_BT, best_BT = subject.runner.score(tokens_BT)
    logits_BTV = subject.runner.logits(tokens_BT)[:, :-1].cpu()
    wanted_BT = logits_BTV.double().log_softmax(-1).gather(-1, tokens_BT[:, 1:, None]).squeeze(-1)
    subject.same(given_BT.cpu(), wanted_BT.float(), "log-probabilities")
    same_best = best_BT.cpu() == (logits_BTV.argmax(-1) == tokens_BT[:, 1:])
    require(bool(same_best.float().mean() > 0.95), f"argmax differs at {int((~same_best).sum())} positions")


# --- one answer, whatever the way ------------------------------------------------------------------


def prefill_then_decode_equals_whole(subject: Subject) -> None:
    """A prefill and decode steps after it give the logits of the whole sequence."""
    tokens_BT = subject.tokens(2, LENGTH)
    wanted_BTV, state = subject.runner.logits(tokens_BT), subject.runner.new_state(2, LENGTH)
    given = [subject.runner.prefill(tokens_BT[:, :29], state)]
    given += [subject.runner.decode(tokens_BT[:, t], state) for t in range(29, LENGTH)]
    subject.same(torch.stack(given, 1), wanted_BTV[:, 28:], "prefill of 29 tokens, then 8 steps")


def chunks_equal_whole(subject: Subject) -> None:
    """A prefill in chunks of unlike sizes gives the logits of the whole sequence at each chunk's end."""
    tokens_BT, sizes = subject.tokens(2, LENGTH), [1, 5, 16, 15]
    wanted_BTV, state = subject.runner.logits(tokens_BT), subject.runner.new_state(2, LENGTH)
    given = [subject.runner.prefill(chunk, state) for chunk in tokens_BT.split(sizes, dim=1)]
    ends = torch.tensor(sizes).cumsum(0) - 1
    subject.same(torch.stack(given, 1), wanted_BTV[:, ends], f"chunks of {sizes}")


def batch_equals_singles(subject: Subject) -> None:
    """A batch of two equals two batches of one, in logits, prefill and decode."""
    tokens_BT = subject.tokens(2, LENGTH)
    subject.same(_every_way(subject.runner, tokens_BT), _one_by_one(subject.runner, tokens_BT), "a batch of two")


def ragged_equals_singles(subject: Subject) -> None:
    """Sequences of unlike length in one batch, continued in a second chunk and by steps, equal each one alone."""
    runner, tokens_BT = subject.runner, subject.tokens(3, LENGTH + 4)
    chunks = [torch.tensor([19, 1, 8]), torch.tensor([2, 16, 5])]
    state, start_B, given = runner.new_state(3, LENGTH), torch.zeros(3, dtype=torch.int64), []
    for lengths_B in chunks:
        columns_BT = start_B[:, None] + torch.arange(int(lengths_B.max()) + 1)
        given.append(runner.prefill(tokens_BT.gather(1, columns_BT), state, lengths_B))
        start_B = start_B + lengths_B
    for _ in range(2):
        given.append(runner.decode(tokens_BT.gather(1, start_B[:, None])[:, 0], state))
        start_B = start_B + 1
    require(
        state.lengths_B.tolist() == start_B.tolist(), f"lengths are {state.lengths_B.tolist()}, not {start_B.tolist()}"
    )
    for row, ends in enumerate(([18, 20, 21, 22], [0, 16, 17, 18], [7, 12, 13, 14])):
        alone_TV = runner.logits(tokens_BT[row : row + 1, : ends[-1] + 1])[0]
        subject.same(torch.stack([each[row] for each in given]), alone_TV[ends], f"sequence {row} of a ragged batch")
    padded_BTV = runner.logits(tokens_BT[:, :19], chunks[0])
    for row, length in enumerate(chunks[0].tolist()):
        alone_TV = runner.logits(tokens_BT[row : row + 1, :length])[0]
        subject.same(padded_BTV[row, :length], alone_TV, f"logits of sequence {row}, padded to 19 tokens")


def odd_sizes(subject: Subject) -> None:
    """Sequences of 1, 2, 3 and 17 tokens, and batches of 1 and 3, give the start of the longer answer."""
    tokens_BT = subject.tokens(3, LENGTH)
    wanted_BTV = subject.runner.logits(tokens_BT)
    for batch, length in ((1, 1), (3, 1), (1, 2), (3, 3), (1, 17)):
        given_BTV = subject.runner.logits(tokens_BT[:batch, :length])
        subject.same(given_BTV, wanted_BTV[:batch, :length], f"{batch} x {length} tokens")
        state = subject.runner.new_state(batch, length)
        given_BV = subject.runner.prefill(tokens_BT[:batch, :length], state)
        subject.same(given_BV, wanted_BTV[:batch, length - 1], f"prefill of {batch} x {length} tokens")


def decode_from_nothing(subject: Subject) -> None:
    """Decoding into an empty state gives the logits of the sequence."""
    tokens_BT = subject.tokens(2, 5)
    state = subject.runner.new_state(2, 5)
    given = [subject.runner.decode(tokens_BT[:, t], state) for t in range(5)]
    subject.same(torch.stack(given, 1), subject.runner.logits(tokens_BT), "5 steps from an empty state")


# --- what may and may not be seen ------------------------------------------------------------------


def future_is_unseen(subject: Subject) -> None:
    """Changing later tokens changes no earlier logits."""
    tokens_BT = subject.tokens(2, LENGTH)
    other_BT = torch.cat([tokens_BT[:, :20], (tokens_BT[:, 20:] + 1) % subject.config.vocab_size], 1)
    before, after = subject.runner.logits(tokens_BT), subject.runner.logits(other_BT)
    subject.same(after[:, :20], before[:, :20], "the first 20 positions after a change of the 17 behind them")
    _must_differ(after[:, 20:], before[:, 20:], "changed tokens do not change their own logits")


def positions_matter(subject: Subject) -> None:
    """One layer tells the order of earlier tokens: swapping them changes the last logits."""
    try:
        runner = subject.first_layer()
    except UsageError as error:
        raise NotApplicableError(f"needs a model of one layer: {error}") from error
    # Few enough tokens that sparse selectors take all of them: without positions, the answer is the same exactly.
    tokens_BT = subject.tokens(2, 9)
    swapped_BT = tokens_BT[:, [7, 6, 5, 4, 3, 2, 1, 0, 8]]
    before, after = runner.logits(tokens_BT)[:, -1], runner.logits(swapped_BT)[:, -1]
    _must_differ(after, before, "reversing the 8 earlier tokens does not change the last logits of one layer")


def sequences_do_not_mix(subject: Subject) -> None:
    """What stands in one sequence of a batch changes nothing in another."""
    tokens_BT, other_BT = subject.tokens(2, LENGTH), subject.tokens(2, LENGTH, seed=1)
    other_BT[0] = tokens_BT[0]
    given, wanted = _every_way(subject.runner, other_BT), _every_way(subject.runner, tokens_BT)
    subject.same(given[0], wanted[0], "sequence 0 after a change of sequence 1")


def states_do_not_mix(subject: Subject) -> None:
    """Two states in use by turns give what each gives alone."""
    first_BT, second_BT = subject.tokens(2, 24), subject.tokens(2, 24, seed=1)
    alone = [_steps(subject.runner, subject.runner.new_state(2, 24), tokens) for tokens in (first_BT, second_BT)]
    states = [subject.runner.new_state(2, 24) for _ in range(2)]
    given: list[list[Tensor]] = [[], []]
    for index, tokens_BT in enumerate((first_BT, second_BT)):
        given[index].append(subject.runner.prefill(tokens_BT[:, :20], states[index]))
    for t in range(20, 24):
        for index, tokens_BT in enumerate((first_BT, second_BT)):
            given[index].append(subject.runner.decode(tokens_BT[:, t], states[index]))
    for index in range(2):
        subject.same(torch.stack(given[index], 1), alone[index], f"state {index} of two in use by turns")


# --- the state -------------------------------------------------------------------------------------


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
    fresh = _steps(runner, runner.new_state(2, LENGTH), other_BT)
    subject.same(_steps(runner, state, other_BT), fresh, "a state truncated to 0 and used again")


def unused_memory_is_never_read(subject: Subject) -> None:
    """NaN in every byte of the caches that no token has been written to changes nothing."""
    runner, tokens_BT = subject.runner, subject.tokens(2, LENGTH)
    wanted = _steps(runner, runner.new_state(2, LENGTH + 8), tokens_BT)
    state = runner.new_state(2, LENGTH + 8)
    storage = list(state.storage())
    if not storage:
        raise NotApplicableError("a new state of this engine has no memory yet: it grows as tokens come")
    for tensor in storage:
        _poison(tensor)
    given = _steps(runner, state, tokens_BT)
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
    for runner in (subject.runner, subject.reference):
        state = runner.new_state(2, LENGTH + 3)
        state.fill_random(seed, LENGTH)
        require(state.lengths_B.tolist() == [LENGTH] * 2, f"lengths are {state.lengths_B.tolist()} after fill_random")
        answers.append(torch.stack([runner.decode(tokens_BT[:, t], state) for t in range(3)], 1))
    subject.same(answers[0], answers[1], "3 steps over a synthetic context")


# --- behaviour -------------------------------------------------------------------------------------


def same_call_is_bitwise_equal(subject: Subject) -> None:
    """The same calls give the same bits."""
    tokens_BT = subject.tokens(2, LENGTH)
    first, second = _every_way(subject.runner, tokens_BT), _every_way(subject.runner, tokens_BT)
    require_equal(second, first, "the same calls a second time")


def inputs_are_untouched(subject: Subject) -> None:
    """Tokens and lengths that are passed in stay as they were."""
    tokens_BT, lengths_B = subject.tokens(2, LENGTH), torch.tensor([LENGTH, 5])
    before_BT, before_B = tokens_BT.clone(), lengths_B.clone()
    state = subject.runner.new_state(2, LENGTH + 1)
    subject.runner.prefill(tokens_BT, state, lengths_B)
    subject.runner.decode(tokens_BT[:, 0], state)
    subject.runner.logits(tokens_BT, lengths_B)
    require_equal(tokens_BT, before_BT, "tokens after the calls")
    require_equal(lengths_B, before_B, "lengths after the calls")


# --- ways of running --------------------------------------------------------------------------------


def _steps(runner: Runner, state: State, tokens_BT: Tensor) -> Tensor:
    """Prefill all but the last 4 tokens, then decode those: logits [B, 5, vocab]."""
    last = tokens_BT.shape[1] - 4
    given = [runner.prefill(tokens_BT[:, :last], state)]
    given += [runner.decode(tokens_BT[:, t], state) for t in range(last, last + 4)]
    return torch.stack(given, 1)


def _every_way(runner: Runner, tokens_BT: Tensor) -> Tensor:
    """Logits of the whole, then of a prefill with 4 steps: [B, T + 5, vocab]."""
    state = runner.new_state(*tokens_BT.shape)
    return torch.cat([runner.logits(tokens_BT), _steps(runner, state, tokens_BT)], 1)


def _one_by_one(runner: Runner, tokens_BT: Tensor) -> Tensor:
    return torch.cat([_every_way(runner, tokens_BT[row : row + 1]) for row in range(tokens_BT.shape[0])])


def _must_differ(after: Tensor, before: Tensor, message: str) -> None:
    change = (after.double() - before.double()).norm(dim=-1) / before.double().norm(dim=-1)
    require(float(change.median()) > VISIBLE, f"{message} (relative change {float(change.median()):.1e})")


def _poison(tensor: Tensor) -> None:
    """NaN everywhere; packed formats (integers) get all bits set, which is NaN in FP8 and in floats."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(-1 if tensor.dtype.is_signed else torch.iinfo(tensor.dtype).max)


def _size(tokens_BT: Tensor) -> str:
    return " x ".join(map(str, tokens_BT.shape))
