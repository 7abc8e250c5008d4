"""The sign test that looks several times: bounds by enumeration and by simulation, verdicts by planting."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.gate.statistics.sequential import Decision, Design, Margins, decide, effect, turn_value

PER_PROCESS = 5


def in_processes(log_ratios: np.ndarray, size: int = PER_PROCESS) -> list[list[float]]:
    return [list(log_ratios[start : start + size]) for start in range(0, len(log_ratios), size)]


def run(log_ratios: np.ndarray, design: Design, size: int = PER_PROCESS) -> Decision:
    """What a gate would do: measure on until there is a verdict."""
    for look in design.looks:
        decision = decide(in_processes(log_ratios[:look], size), design)
        if decision:
            return decision
    raise AssertionError("the cap always decides")


def rate(verdict: str, trials: list[Decision]) -> float:
    return sum(one.verdict == verdict for one in trials) / len(trials)


# --- what is bounded, by simulation ---------------------------------------------------------------------


def drifting(rng: np.random.Generator, pairs: int) -> np.ndarray:
    """Two sides of equal speed in random order, on a machine that drifts, has moods and sometimes stalls."""
    turns = 2 * pairs
    drift = 0.5 * np.sin(np.arange(turns) / 7 + rng.uniform(0, 6)) + 0.02 * np.arange(turns)
    mood = np.convolve(rng.normal(0, 0.05, turns + 20), 0.9 ** np.arange(20), "valid")[:turns]
    level = drift + mood + np.abs(rng.standard_t(1.5, turns)) * 0.01
    sides = np.where(rng.random(pairs) < 0.5, 1.0, -1.0)
    return sides * (level[1::2] - level[0::2])


def test_false_alarms_stay_below_alpha_under_drift_autocorrelation_and_heavy_tails() -> None:
    rng = np.random.default_rng(4)
    design = Design(Margins(0.0, 1e-9), alpha=0.05, disagreement=0.49, processes=2)  # only the signs decide
    trials = [run(drifting(rng, design.cap), design) for _ in range(500)]
    for verdict in ("regression", "improvement"):
        assert 0.01 < rate(verdict, trials) < 0.05 + 3 * math.sqrt(0.05 / 500)


def test_a_slow_down_to_be_caught_is_seldom_passed() -> None:
    rng = np.random.default_rng(5)
    design = Design(miss=0.05, disagreement=0.49, processes=2)
    trials = [run(math.log1p(0.05) + 0.03 * rng.standard_t(2, design.cap), design) for _ in range(500)]
    assert rate("pass", trials) < 0.05 + 3 * math.sqrt(0.05 / 500)


@pytest.mark.parametrize(("slower", "verdict"), [(0.0, "pass"), (0.05, "regression"), (-0.06, "improvement")])
def test_verdicts_under_noise_with_heavy_tails(slower: float, verdict: str) -> None:
    rng = np.random.default_rng(6)
    trials = [run(math.log1p(slower) + 0.013 * rng.standard_t(2, 120), Design()) for _ in range(200)]
    assert rate(verdict, trials) >= 0.99


def test_processes_that_differ_do_not_fool_it() -> None:
    """Each process 4 % off for its whole life and hardly restarted: a test on pairs alone cries wolf."""
    rng = np.random.default_rng(7)
    trials, naive = [], []
    for _ in range(300):
        x = np.repeat(rng.normal(0, 0.04, 10), 20) + rng.normal(0, 0.005, 200)
        trials.append(run(x, Design(), size=20))
        naive.append(run(x, Design(processes=2, disagreement=0.49), size=20))
    assert rate("regression", trials) <= 0.02 < 0.04 < rate("regression", naive)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("processes", [3, 6, 12])
def test_the_interval_covers_the_truth(processes: int, size: int) -> None:
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(800):
        offsets = np.repeat(rng.normal(0, 0.01, processes), size)
        x = 0.03 + offsets + 0.02 * rng.standard_t(3, processes * size)
        seen = effect(in_processes(x, size))
        covered += seen.low <= math.exp(0.03) <= seen.high
    assert covered / 800 > 0.95 - 3 * math.sqrt(0.05 * 0.95 / 800)


# --- invariance and monotonicity ------------------------------------------------------------------------

pairs = st.lists(st.floats(-0.3, 0.3), min_size=5, max_size=5)
cells = st.lists(pairs, min_size=2, max_size=24)


@given(cells, st.randoms(use_true_random=False))
def test_the_order_of_pairs_within_a_process_does_not_matter(cell: list[list[float]], random) -> None:
    design = Design(looks=(5, 10, 20, 40, 60, 120))
    shuffled = [random.sample(process, len(process)) for process in cell]
    assert decide(cell, design, final=True) == decide(shuffled, design, final=True)


@given(cells)
def test_pairs_after_the_last_look_wait_for_the_next(cell: list[list[float]]) -> None:
    design = Design(looks=(10, 120))
    assert decide(cell, design) == decide(cell[:2], design) or len(cell) == 24


@settings(max_examples=50)
@given(cells, st.floats(0.01, 100), st.integers(0, 10**6))
def test_scale_does_not_matter(cell: list[list[float]], factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = [rng.uniform(1, 2, len(process)) for process in cell]

    def ratios(scale: float) -> list[list[float]]:
        sides = [(a * scale, a * np.exp(x) * scale) for a, x in zip(levels, cell, strict=True)]
        return [list(np.round(np.log(b / a), 12)) for a, b in sides]

    assert decide(ratios(1.0), Design(), final=True) == decide(ratios(factor), Design(), final=True)


@given(cells, st.floats(0, 0.2))
def test_more_slow_down_never_turns_a_regression_back(cell: list[list[float]], more: float) -> None:
    first = decide(cell, Design(), final=True)
    second = decide([[x + more for x in process] for process in cell], Design(), final=True)
    if first and second and first.verdict == "regression":
        assert second.verdict == "regression"


@given(cells)
def test_swapping_the_sides_swaps_regression_and_improvement(cell: list[list[float]]) -> None:
    swapped = {"regression": "improvement", "improvement": "regression"}
    first, second = decide(cell, Design()), decide([[-x for x in process] for process in cell], Design())
    if first and second and first.verdict in swapped:
        assert second.verdict in (swapped[first.verdict], "pass")
    if first and first.verdict == "improvement":
        assert second is not None
        assert second.verdict == "regression"


@given(cells)
def test_the_estimate_is_inside_its_interval(cell: list[list[float]]) -> None:
    seen = effect(cell)
    assert seen.low <= seen.ratio <= seen.high


# --- planted samples ------------------------------------------------------------------------------------


def test_two_processes_are_never_enough() -> None:
    decision = decide([[0.2] * 100, [0.2] * 100], Design())
    assert decision is not None
    assert decision.verdict == "inconclusive"
    assert "a verdict needs 3" in decision.reason


def test_undecided_cells_go_on_until_the_cap_or_the_end() -> None:
    torn = [[0.2, -0.2] * 4] * 3
    assert decide(torn, Design()) is None
    ended = decide(torn, Design(), final=True)
    assert ended is not None
    assert ended.verdict == "inconclusive"


def test_an_unproven_improvement_passes_at_the_end_as_not_slower() -> None:
    faster = [[-0.04] * 5] * 3
    assert decide(faster, Design()) is None
    ended = decide(faster, Design(), final=True)
    assert ended is not None
    assert ended.verdict == "pass"


def test_a_verdict_says_what_it_rests_on() -> None:
    decision = decide([[0.07] * 5] * 5, Design())
    assert decision is not None
    assert decision.verdict == "regression"
    assert decision.effect.ratio == pytest.approx(math.exp(0.07))
    assert decision.p == pytest.approx(2.0**-20)
    assert decision.reason == "slower than 1%: 20 of 20 pairs over 4 processes"


def test_a_turn_counts_by_its_mean_without_the_extremes() -> None:
    assert turn_value([2.0]) == 2.0
    assert turn_value([2.0, 4.0]) == 3.0
    assert turn_value([90.0, 2.0, 3.0, 4.0, 0.1]) == 3.0
    assert turn_value([1.0, 1.1] * 10) == pytest.approx(1.05), "half of the calls slower by a tenth"


def test_one_process_has_no_interval() -> None:
    seen = effect([[0.01, 0.02, 0.03]])
    assert (seen.low, seen.high) == (0.0, math.inf)


def test_alpha_is_split_over_cells() -> None:
    assert Design(alpha=0.01).over(100).alpha == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Margins(0.05, 0.05),
        lambda: Margins(-0.01, 0.05),
        lambda: Design(alpha=0),
        lambda: Design(looks=(5, 5)),
        lambda: Design(looks=()),
        lambda: Design(processes=1),
        lambda: Design().over(0),
        lambda: effect([[]]),
        lambda: decide([[math.nan]], Design()),
        lambda: decide([], Design(), final=True),
    ],
)
def test_what_cannot_be_is_refused(make) -> None:
    with pytest.raises(UsageError):
        make()
