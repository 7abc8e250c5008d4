"""A planted defect is exactly what it says, and everything else is the wrapped runner's."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from harness.contract.planted import Planted
from harness.measure.planted import PlantedRunner
from tests.measure.fakes import VOCAB, FakeRunner
from tests.support.running import in_chunks

TOKENS = torch.randint(VOCAB, (40, 24), generator=torch.Generator().manual_seed(1))


class OnGpu(PlantedRunner):
    """Counts the extra products instead of computing them, and tells times as planted: seconds a call, a product."""

    def __init__(self, planted: Planted, call: float = 0.010, product: float = 5e-6) -> None:
        super().__init__(FakeRunner(), planted, seed=3)
        self.device = "cuda"
        self.extra: list[int] = []
        self.call, self.product = call, product

    def _multiply(self, count: int) -> None:
        self.extra.append(count)

    def _seconds(self, work: Callable[[], object]) -> float:
        before = len(self.extra)
        work()
        return sum(self.extra[before:]) * self.product or self.call


def steps(runner: OnGpu, count: int) -> list[int]:
    """The extra products of `count` decode steps."""
    state = runner.new_state(2, count + 1)
    runner.prefill(TOKENS[:2, :1], state)
    runner.extra.clear()
    for step in range(count):
        runner.decode(TOKENS[:2, step % 24], state)
    return runner.extra


@pytest.mark.parametrize("planted", [Planted(slower=0.3), Planted(slower=0.3, share=0.5), Planted(memory_bytes=10)])
def test_answers_are_the_wrapped_runners(planted: Planted) -> None:
    wrapped, plain = PlantedRunner(FakeRunner(), planted, seed=3), FakeRunner()
    assert torch.equal(in_chunks(wrapped, TOKENS, [7, 9]), in_chunks(plain, TOKENS, [7, 9]))
    assert torch.equal(wrapped.logits(TOKENS), plain.logits(TOKENS))
    assert torch.equal(wrapped.score(TOKENS)[0], plain.score(TOKENS)[0])
    assert wrapped.weight_bytes == plain.weight_bytes


def test_as_many_products_as_take_the_wanted_share_of_a_call() -> None:
    runner = OnGpu(Planted(slower=0.05))
    runner.prefill(TOKENS, runner.new_state(40, 24))
    assert runner.extra[-1] == 100
    assert runner.products == {"prefill 40x24": 100}


@pytest.mark.parametrize(("call", "rounds"), [(0.001, 9), (0.1, 5), (2.0, 3)])
def test_long_calls_are_calibrated_by_fewer(call: float, rounds: int) -> None:
    runner = OnGpu(Planted(slower=0.05), call=call)
    runner.prefill(TOKENS, runner.new_state(40, 24))
    assert len(runner.extra) == rounds + 1


def test_calibrating_leaves_the_state_as_it_was() -> None:
    runner = OnGpu(Planted(slower=0.05))
    state = runner.new_state(40, 24)
    runner.prefill(TOKENS[:, :20], state)
    runner.decode(TOKENS[:, 20], state)
    assert state.lengths_B.tolist() == [21] * 40


def test_a_share_of_the_calls_is_slower_on_a_gpu() -> None:
    runner = OnGpu(Planted(slower=0.05, share=0.5))
    runner.products["decode 2"] = 7
    extra = steps(runner, 400)
    assert set(extra) == {0, 7}
    assert 160 < sum(extra) / 7 < 240


def test_nothing_planted_is_nothing_done() -> None:
    assert steps(OnGpu(Planted()), 5) == []


class Worked:
    """A clock that moves by a microsecond whenever it is read, and by what a call is said to take."""

    def __init__(self, asking: float = 0.0) -> None:
        self.time = 0.0
        self.asking = asking
        """Seconds that it takes to time a call."""

    def __call__(self) -> float:
        self.time += 1e-6
        return self.time

    @property
    def clock(self) -> SimpleNamespace:
        """The same as a clock for calls."""
        return SimpleNamespace(time=self._timed)

    def _timed(self, call: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
        self.time += self.asking / 2
        before = self.time
        result = call()
        milliseconds = 1e3 * (self.time - before)
        self.time += self.asking / 2
        return milliseconds, result

    def call(self, seconds: float) -> torch.Tensor:
        self.time += seconds
        return torch.zeros(1)


@pytest.mark.parametrize("asking", [0.0, 40e-6])
@pytest.mark.parametrize("seconds", [0.001, 0.010])
def test_every_call_works_longer_by_a_share_of_its_own_time(seconds: float, asking: float) -> None:
    runner, clock = PlantedRunner(FakeRunner(), Planted(slower=0.05), seed=3), Worked(asking)
    runner.now, runner.clock = clock, clock.clock  # type: ignore[assignment]
    for _ in range(10):
        before = clock.time
        runner._longer("", runner.new_state(1, 1), lambda: clock.call(seconds))
        assert clock.time - before == pytest.approx(1.05 * seconds, abs=5e-6)


def test_a_share_of_the_calls_is_slower() -> None:
    runner, clock = PlantedRunner(FakeRunner(), Planted(slower=0.1, share=0.5), seed=3), Worked()
    runner.now, runner.clock = clock, clock.clock  # type: ignore[assignment]
    state, taken = runner.new_state(1, 1), []
    for _ in range(400):
        before = clock.time
        runner._longer("", state, lambda: clock.call(0.010))
        taken.append(clock.time - before)
    slow = [one for one in taken if one > 0.0105]
    assert slow == pytest.approx([0.011] * len(slow), abs=1e-5)
    assert 160 < len(slow) < 240


def test_a_real_call_works_longer() -> None:
    runner = PlantedRunner(FakeRunner(), Planted(slower=1.0), seed=3)
    before = time.thread_time()
    runner._longer("", runner.new_state(1, 1), lambda: _busy(0.02))
    assert time.thread_time() - before >= 2 * 0.02


def test_a_call_that_works_elsewhere_is_longer_too() -> None:
    """An engine may work in threads or processes of its own while this thread sleeps."""
    runner = PlantedRunner(FakeRunner(), Planted(slower=1.0), seed=3)
    before = time.perf_counter()
    runner._longer("", runner.new_state(1, 1), lambda: _asleep(0.02))
    assert time.perf_counter() - before >= 2 * 0.02


def _asleep(seconds: float) -> torch.Tensor:
    time.sleep(seconds)
    return torch.zeros(1)


def _busy(seconds: float) -> torch.Tensor:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return torch.zeros(1)


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
