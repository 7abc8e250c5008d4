"""The smallest slow-down that so many pairs could have shown is one that they do show, as often as is said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from harness.gate.statistics.power import shown_by
from harness.gate.statistics.sequential import Design, Margins, decide
from harness.gate.verdict import Verdict

DESIGN = Design(alpha=1e-3)


def planted(slower: float, pairs: int, noise: float, between: float, seed: int) -> list[np.ndarray]:
    """Log ratios in visits of five pairs: noise of a pair, and of a pair of processes."""
    draw = np.random.default_rng(seed)
    return [
        math.log1p(slower) + draw.normal(0, between) + draw.normal(0, noise, 5) for _ in range(pairs // 5)
    ]  # fmt: skip


def typical(pairs: int, noise: float, between: float, design: Design = DESIGN) -> float:
    """The median over runs of what unchanged pairs say that they could have shown."""
    found = [shown_by(planted(0.0, pairs, noise, between, seed), design) for seed in range(40)]
    assert all(one is not None for one in found)
    return float(np.median(np.array(found, float)))


def called(slower: float, pairs: int, noise: float, between: float) -> float:
    """Share of runs in which a slow-down was called a regression within so many pairs."""
    runs = [decided(planted(slower, pairs, noise, between, seed)) for seed in range(1_000, 1_300)]
    return sum(verdict == Verdict.REGRESSION for verdict in runs) / len(runs)


def decided(ratios: Sequence[np.ndarray]) -> Verdict | None:
    """The verdict of the first look that has one."""
    for visits in range(3, len(ratios) + 1):
        if decision := decide(ratios[:visits], DESIGN):
            return decision.verdict
    return None


@pytest.mark.parametrize(
    ("noise", "between", "least"),
    [(0.03, 0.0, 0.7), (0.08, 0.0, 0.7), (0.01, 0.02, 0.6)],
    ids=["signs", "noisy", "processes"],
)
def test_what_could_have_been_shown_is_shown_four_times_in_five(noise: float, between: float, least: float) -> None:
    smallest = typical(60, noise, between)
    assert least <= called(smallest, 60, noise, between) <= 0.95
    assert called(0.7 * smallest, 60, noise, between) < 0.5


def test_without_noise_it_is_the_middle_of_the_margins() -> None:
    design = Design(Margins(0.02, 0.04))
    assert shown_by([[0.0] * 5] * 5, design) == pytest.approx(math.expm1(design.margins.middle))


def test_few_processes_that_differ_ask_for_most() -> None:
    """Two degrees: from 20.054 standard errors beyond what is tolerated a test at 0.2% is passed four times in five."""
    error = 0.03 / math.sqrt(3)
    smallest = shown_by([[-0.03] * 5, [0.0] * 5, [0.03] * 5], DESIGN)
    assert smallest == pytest.approx(math.expm1(math.log(1.01) + 20.054 * error), rel=1e-3)


def test_more_pairs_show_less() -> None:
    assert typical(15, 0.03, 0.0) > typical(30, 0.03, 0.0) > typical(120, 0.03, 0.0)


def test_a_smaller_share_of_alpha_asks_for_more() -> None:
    assert typical(60, 0.05, 0.0, Design(alpha=1e-6)) > typical(60, 0.05, 0.0, Design(alpha=1e-2))


def test_pairs_after_the_last_look_do_not_count() -> None:
    ratios = planted(0.0, 60, 0.03, 0.0, 1)
    assert shown_by([*ratios, [9.0]], DESIGN) == shown_by(ratios, DESIGN)


@pytest.mark.parametrize(
    "ratios", [[], [[0.0] * 14], [[0.0] * 30], [[0.0] * 15] * 2], ids=["none", "few", "one", "two"]
)
def test_what_no_verdict_can_rest_on_shows_nothing(ratios: list[list[float]]) -> None:
    assert shown_by(ratios, DESIGN) is None


def test_a_look_that_cannot_call_anything_shows_nothing() -> None:
    assert shown_by([[0.0] * 5] * 3, Design(alpha=1e-12)) is None
