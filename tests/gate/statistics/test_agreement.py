"""The chance that processes agree, against tests of processes that are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.gate.statistics.agreement import agreement, centre_for
from harness.records.statistics import t_quantile


@pytest.mark.parametrize(
    ("processes", "level", "centre"), [(3, 0.02, 6.0), (3, 0.002, 20.0), (6, 0.002, 5.0), (12, 0.02, 1.5)]
)
def test_so_many_drawn_tests_pass(processes: int, level: float, centre: float) -> None:
    draw, trials = np.random.default_rng(processes), 40_000
    medians = draw.normal(centre / math.sqrt(processes), 1.0, (trials, processes))
    t = medians.mean(1) / (medians.std(1, ddof=1) / math.sqrt(processes))
    share = float((t > t_quantile(1 - level, processes - 1)).mean())
    assert agreement(centre, level, processes - 1) == pytest.approx(share, abs=4 * math.sqrt(0.25 / trials))


@pytest.mark.parametrize("degrees", [1, 2, 5, 40])
@pytest.mark.parametrize("level", [0.001, 0.02])
def test_the_centre_for_a_chance_has_it(degrees: int, level: float) -> None:
    assert agreement(centre_for(0.8, level, degrees), level, degrees) == pytest.approx(0.8)


def test_a_mean_at_what_it_must_beat_passes_as_often_as_the_level_says() -> None:
    assert agreement(0.0, 0.02, 5) == pytest.approx(0.02)
