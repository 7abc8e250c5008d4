"""Checks of a whole variant through the outer contract (`Runner`): they hold for any engine.

Each function is one check: its name stands in the table, the first line of its docstring says what must hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.check.subject import Subject
from harness.check.tolerances import QUANTISED_ALIKE
from harness.check.verdict import NotApplicableError, require, require_close, require_equal
from harness.check.ways import LENGTH, every_way, one_by_one, steps
from harness.errors import UsageError

VISIBLE = 1e-3
"""Relative L2 that a change which must show has to exceed in the typical row; true ones are near 1."""


# --- the right numbers -----------------------------------------------------------------------------


def equals_reference(subject: Subject) -> None:
    """Logits equal those of the FP64 reference with the same weights and selector."""
    tokens_BT = subject.tokens(2, LENGTH)
    given, wanted = subject.runner.logits(tokens_BT), subject.reference.logits(tokens_BT)
    subject.near_reference(given, wanted, f"logits of {_size(tokens_BT)} tokens")


def equals_reference_that_quantises_alike(subject: Subject) -> None:
    """With FP32 activations, logits equal those of an FP64 reference that quantises what the variant quantises."""
    tokens_BT = subject.tokens(2, LENGTH)
    mine, exact = subject.quantised_alike()
    require_close(mine.logits(tokens_BT), exact.logits(tokens_BT), QUANTISED_ALIKE, f"{_size(tokens_BT)} tokens")


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
    subject.same(every_way(subject.runner, tokens_BT), one_by_one(subject.runner, tokens_BT), "a batch of two")


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
    given, wanted = every_way(subject.runner, other_BT), every_way(subject.runner, tokens_BT)
    subject.same(given[0], wanted[0], "sequence 0 after a change of sequence 1")


def states_do_not_mix(subject: Subject) -> None:
    """Two states in use by turns give what each gives alone."""
    first_BT, second_BT = subject.tokens(2, 24), subject.tokens(2, 24, seed=1)
    alone = [steps(subject.runner, subject.runner.new_state(2, 24), tokens) for tokens in (first_BT, second_BT)]
    states = [subject.runner.new_state(2, 24) for _ in range(2)]
    given: list[list[Tensor]] = [[], []]
    for index, tokens_BT in enumerate((first_BT, second_BT)):
        given[index].append(subject.runner.prefill(tokens_BT[:, :20], states[index]))
    for t in range(20, 24):
        for index, tokens_BT in enumerate((first_BT, second_BT)):
            given[index].append(subject.runner.decode(tokens_BT[:, t], states[index]))
    for index in range(2):
        subject.same(torch.stack(given[index], 1), alone[index], f"state {index} of two in use by turns")


# --- behaviour -------------------------------------------------------------------------------------


def same_call_is_bitwise_equal(subject: Subject) -> None:
    """The same calls give the same bits."""
    tokens_BT = subject.tokens(2, LENGTH)
    first, second = every_way(subject.runner, tokens_BT), every_way(subject.runner, tokens_BT)
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


def _must_differ(after: Tensor, before: Tensor, message: str) -> None:
    change = (after.double() - before.double()).norm(dim=-1) / before.double().norm(dim=-1)
    require(float(change.median()) > VISIBLE, f"{message} (relative change {float(change.median()):.1e})")


def _size(tokens_BT: Tensor) -> str:
    return " x ".join(map(str, tokens_BT.shape))
