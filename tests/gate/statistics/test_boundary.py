"""The boundary is exact: checked against every path of coins, and against simulated ones."""

import itertools

import numpy as np
import pytest

from harness.gate.statistics.boundary import boundary, crossed_by, sign_p


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.04])
def test_the_boundary_is_exact_for_every_path_of_coins(alpha: float) -> None:
    looks = (3, 5, 8, 11)
    thresholds = boundary(looks, alpha)
    heads = np.array(list(itertools.product((0, 1), repeat=looks[-1]))).cumsum(1)[:, np.array(looks) - 1]
    crossed = (heads >= thresholds).cumsum(1) > 0
    for number in range(1, len(looks) + 1):
        assert crossed[:, number - 1].mean() <= alpha * number / len(looks)
    lowered = [*thresholds[:-1], thresholds[-1] - 1]
    assert (heads >= lowered).any(1).mean() > alpha, "the last look leaves less than one count unspent"


def test_a_boundary_that_needs_more_heads_than_coins_cannot_be_crossed() -> None:
    assert boundary((4, 20), 1e-3) == (5, 18)


def test_sign_p_is_the_binomial_tail() -> None:
    assert sign_p(8, 10) == pytest.approx((45 + 10 + 1) / 1024)
    assert sign_p(0, 10) == 1.0


@pytest.mark.parametrize("heads", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_crossing_agrees_with_simulated_coins(heads: float) -> None:
    looks, alpha = (6, 10, 17, 30), 0.05
    flips = np.random.default_rng(3).random((4000, looks[-1])) < heads
    counts = flips.cumsum(1)[:, np.array(looks) - 1]
    seen = ((counts >= boundary(looks, alpha)).cumsum(1) > 0).mean(0)
    assert crossed_by(looks, alpha, heads) == pytest.approx(seen, abs=0.03)


def test_fair_coins_cross_with_at_most_alpha() -> None:
    assert 0.5e-4 < crossed_by((8, 20, 50, 120), 1e-4, 0.5)[-1] <= 1e-4
