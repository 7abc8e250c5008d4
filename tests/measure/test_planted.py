"""A planted defect is exactly what it says, and everything else is the wrapped runner's."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from harness.contract.planted import Planted
from harness.measure.planted import PlantedRunner
from tests.measure.fakes import VOCAB, FakeRunner
from tests.support.running import in_chunks

TOKENS = torch.randint(VOCAB, (40, 24), generator=torch.Generator().manual_seed(1))


class Watched(PlantedRunner):
    """Counts the extra products instead of computing them, and tells times as planted: seconds a call, a product."""

    def __init__(self, planted: Planted, call: float = 0.010, product: float = 5e-6) -> None:
        super().__init__(FakeRunner(), planted, seed=3)
        self.extra: list[int] = []
        self.call, self.product = call, product

    def _multiply(self, count: int) -> None:
        self.extra.append(count)

    def _seconds(self, work: Callable[[], object]) -> float:
        before = len(self.extra)
        work()
        return sum(self.extra[before:]) * self.product or self.call


def steps(runner: Watched, count: int) -> list[int]:
    """The extra products of `count` decode steps."""
    state = runner.new_state(2, count + 1)
    runner.prefill(TOKENS[:2, :1], state)
    runner.extra.clear()
    for step in range(count):
        runner.decode(TOKENS[:2, step % 24], state)
    return runner.extra


@pytest.mark.parametrize(
    "planted", [Planted(slower=0.3), Planted(products={"decode 40": 3}, share=0.5), Planted(memory_bytes=10)]
)
def test_answers_are_the_wrapped_runners(planted: Planted) -> None:
    wrapped, plain = PlantedRunner(FakeRunner(), planted, seed=3), FakeRunner()
    assert torch.equal(in_chunks(wrapped, TOKENS, [7, 9]), in_chunks(plain, TOKENS, [7, 9]))
    assert torch.equal(wrapped.logits(TOKENS), plain.logits(TOKENS))
    assert torch.equal(wrapped.score(TOKENS)[0], plain.score(TOKENS)[0])
    assert wrapped.weight_bytes == plain.weight_bytes


def test_as_many_products_as_take_the_wanted_share_of_a_call() -> None:
    runner = Watched(Planted(slower=0.05))
    runner.prefill(TOKENS, runner.new_state(40, 24))
    assert runner.extra[-1] == 100
    assert runner.products == {"prefill 40x24": 100}


@pytest.mark.parametrize(("call", "rounds"), [(0.001, 9), (0.1, 5), (2.0, 3)])
def test_long_calls_are_calibrated_by_fewer(call: float, rounds: int) -> None:
    runner = Watched(Planted(slower=0.05), call=call)
    runner.prefill(TOKENS, runner.new_state(40, 24))
    assert len(runner.extra) == rounds + 1


def test_calibrating_leaves_the_state_as_it_was() -> None:
    runner = Watched(Planted(slower=0.05))
    state = runner.new_state(40, 24)
    runner.prefill(TOKENS[:, :20], state)
    runner.decode(TOKENS[:, 20], state)
    assert state.lengths_B.tolist() == [21] * 40


def test_a_given_number_of_products_is_not_calibrated() -> None:
    assert steps(Watched(Planted(slower=0.5, products={"decode 2": 7})), 5) == [7] * 5


def test_a_share_of_the_calls_is_slower() -> None:
    extra = steps(Watched(Planted(products={"decode 2": 7}, share=0.5)), 400)
    assert set(extra) == {7}
    assert 160 < len(extra) < 240


def test_nothing_planted_is_nothing_done() -> None:
    assert steps(Watched(Planted()), 5) == []


def test_memory_lives_as_long_as_the_state() -> None:
    runner = PlantedRunner(FakeRunner(), Planted(memory_bytes=1 << 20), seed=3)
    state = runner.new_state(1, 4)
    assert [held.nbytes for held in runner._held.values()] == [1 << 20]
    del state
    gc.collect()
    assert not runner._held


def test_the_scores_of_some_documents_are_spoilt_always_the_same_ones() -> None:
    spoilt = PlantedRunner(FakeRunner(), Planted(wrong=0.25), seed=3)
    sound_BT, (given_BT, best_BT) = FakeRunner().score(TOKENS)[0], spoilt.score(TOKENS)
    worse = (given_BT < sound_BT).all(1)
    assert 3 <= int(worse.sum()) <= 17
    assert torch.equal(given_BT[~worse], sound_BT[~worse])
    assert not best_BT[worse].any()
    again_BT = torch.cat([spoilt.score(TOKENS[row : row + 1])[0] for row in range(40)])
    torch.testing.assert_close(again_BT, given_BT)


def test_the_choices_of_one_document_share_their_fate() -> None:
    spoilt = PlantedRunner(FakeRunner(), Planted(wrong=0.5), seed=3)
    choices = TOKENS.repeat_interleave(2, 0)
    choices[1::2, 12:] = TOKENS.flip(1)[:, 12:]
    changed = (spoilt.score(choices)[0] != FakeRunner().score(choices)[0]).all(1)
    assert torch.equal(changed[0::2], changed[1::2])
    assert 0 < int(changed.sum()) < 80
