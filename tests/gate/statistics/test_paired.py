"""Statistics of losses: bounds that cover, tests that keep their level, and no dependence on order or scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.gate.statistics.paired import Loss, binary_loss, documents_needed, mean_loss

MISS = 0.05
losses = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=30)


def simulated(drop: float, discordant: float, documents: int, trials: int, seed: int) -> list[Loss]:
    """Losses of trials in which a share `discordant` of documents differs and the new side is worse by `drop`."""
    rng = np.random.default_rng(seed)
    lost, gained = (discordant + drop) / 2, (discordant - drop) / 2
    draws = rng.multinomial(documents, [lost, gained, 1 - lost - gained], trials)
    return [binary_loss(int(b), int(c), documents, 0.05, MISS) for b, c, _ in draws]


@pytest.mark.parametrize(
    ("drop", "discordant", "documents"), [(0.0, 0.01, 1_000), (0.02, 0.03, 1_000), (0.0, 0.05, 200), (0.05, 0.2, 100)]
)
def test_bounds_on_a_drop_cover_it(drop: float, discordant: float, documents: int) -> None:
    found = simulated(drop, discordant, documents, 2_000, seed=1)
    assert np.mean([loss.high < drop for loss in found]) <= MISS + 0.025
    assert np.mean([loss.low > drop for loss in found]) <= MISS + 0.025


def test_the_exact_test_keeps_its_level_and_uses_it() -> None:
    rates = [np.mean([loss.p_worse <= 0.05 for loss in simulated(0.0, q, 1_000, 2_000, seed=2)]) for q in (0.02, 0.1)]
    assert all(0.01 < rate <= 0.06 for rate in rates)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (5, 0), (20, 10), (3, 9)])
def test_the_exact_test_is_the_sign_test_on_discordant_documents(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained, 0.5, "greater").pvalue if lost + gained else 1.0
    assert binary_loss(lost, gained, 100, 0.05, MISS).p_worse == pytest.approx(expected)


def test_no_discordant_document_is_no_proof_of_equality() -> None:
    few, many = (binary_loss(0, 0, documents, 0.05, MISS) for documents in (32, 1_000))
    assert few.high == pytest.approx(0.078, abs=0.001)  # z^2 / (n + z^2)
    assert many.high == pytest.approx(0.0027, abs=0.0001)


def test_bounds_solve_the_score_equation() -> None:
    """The bounds are where the statistic, computed from its definition, is the normal quantile (Tango 1998)."""
    loss = binary_loss(9, 2, 44, 0.05, 0.025)
    z = stats.norm.ppf(0.975)
    for bound in (loss.low, loss.high):
        assert abs(_score(9, 2, 44, bound)) == pytest.approx(z, rel=1e-6)


def _score(b: int, c: int, n: int, delta: float) -> float:
    """The statistic from its definition: variance under the most likely probabilities with that difference."""
    shares = np.linspace(max(0.0, -delta), (1 - delta) / 2, 2_000_001)[1:-1]  # of documents gained
    likelihood = b * np.log(shares + delta) + c * np.log(shares) + (n - b - c) * np.log(1 - 2 * shares - delta)
    best = shares[np.argmax(likelihood)]
    return float((b - c - n * delta) / math.sqrt(n * (2 * best + delta * (1 - delta))))


# --- scores and clusters ------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [8, 40])
def test_bounds_on_a_mean_cover_it_under_heavy_tails(units: int) -> None:
    rng = np.random.default_rng(3)
    found = [mean_loss(rng.standard_t(3, units) + 0.3, [1] * units, 0.05, MISS, seed=trial) for trial in range(600)]
    assert np.mean([loss.high < 0.3 for loss in found]) <= 0.08
    assert np.mean([loss.low > 0.3 for loss in found]) <= 0.08
    assert np.mean([loss.p_worse <= 0.05 for loss in found]) > 0.05


def test_bounds_cover_where_there_are_so_many_units_that_they_are_bundled() -> None:
    rng = np.random.default_rng(7)
    found = [mean_loss(rng.standard_t(3, 2_000) + 0.02, [1] * 2_000, 0.05, MISS, seed=trial) for trial in range(200)]
    assert np.mean([loss.high < 0.02 for loss in found]) <= 0.09
    assert np.mean([loss.low > 0.02 for loss in found]) <= 0.09
    reach = [loss.high - loss.estimate for loss in found]
    assert np.mean(reach) == pytest.approx(1.645 * math.sqrt(3 / 2_000), rel=0.1)


def test_clusters_are_the_unit_where_documents_share_a_text() -> None:
    """Documents of a text flip together: counted alone they call an unchanged model worse, by text they do not."""
    rng = np.random.default_rng(4)
    alone, by_text = 0, 0
    for trial in range(400):
        blocks = rng.choice([1, -1, 0], 100, p=[0.1, 0.1, 0.8]) * 10
        lost, gained = int(blocks[blocks > 0].sum()), int(-blocks[blocks < 0].sum())
        alone += binary_loss(lost, gained, 1_000, 0.05, MISS).p_worse <= 0.05
        by_text += mean_loss(blocks.astype(float), [10] * 100, 0.05, MISS, seed=trial).p_worse <= 0.05
    assert alone / 400 > 0.15
    assert by_text / 400 <= 0.08


def test_few_units_cannot_prove_much() -> None:
    """Three units that all lose are one sign pattern of eight."""
    loss = mean_loss([0.1, 0.2, 0.15], [1, 1, 1], 0.05, MISS)
    assert loss.p_worse == pytest.approx(1 / 8, abs=0.02)
    assert loss.high == math.inf


def test_equal_scores_have_no_loss_and_no_p() -> None:
    loss = mean_loss([0.0] * 20, [1] * 20, 0.05, MISS)
    assert (loss.estimate, loss.low, loss.high, loss.p_worse, loss.p_better) == (0.0, 0.0, 0.0, 1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(values=losses, factor=st.floats(0.01, 100))
def test_scale_changes_losses_and_no_verdict(values: list[float], factor: float) -> None:
    plain, scaled = (mean_loss([one * by for one in values], [1] * len(values), 0.05, MISS) for by in (1.0, factor))
    assert scaled.p_worse == pytest.approx(plain.p_worse, abs=0.02)
    assert scaled.estimate == pytest.approx(factor * plain.estimate, rel=1e-6, abs=1e-9)
    if math.isfinite(plain.high):
        assert scaled.high == pytest.approx(factor * plain.high, rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(values=losses)
def test_a_loss_mirrored_is_a_gain(values: list[float]) -> None:
    sizes = [1] * len(values)
    there, back = mean_loss(values, sizes, 0.05, MISS), mean_loss([-one for one in values], sizes, 0.05, MISS)
    assert there.low == pytest.approx(-back.high)
    assert there.p_worse == pytest.approx(back.p_better)


def test_order_moves_nothing_but_the_draw() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(0.02, 0.1, 200)
    there, back = (mean_loss(order, [1] * 200, 0.05, MISS) for order in (values, values[::-1]))
    assert back.estimate == pytest.approx(there.estimate)
    assert back.high == pytest.approx(there.high, abs=0.001)
    assert back.p_worse == pytest.approx(there.p_worse, abs=0.005)


# --- how many documents -------------------------------------------------------------------------------


@pytest.mark.parametrize(("discordant", "documents"), [(0.01, 4_318), (0.02, 8_647), (0.05, 21_634)])
def test_documents_needed_for_half_a_point(discordant: float, documents: int) -> None:
    """n = (z + z)^2 (q - d^2) / d^2 at 5% and 95%."""
    assert documents_needed(discordant - 0.005**2, 0.005, 0.05, 0.05) == pytest.approx(documents, abs=2)


def test_what_could_have_been_shown_would_have_been() -> None:
    detectable = binary_loss(15, 15, 1_000, 0.05, MISS).detectable
    found = simulated(detectable, 0.03, 1_000, 1_000, seed=6)
    assert 0.7 < np.mean([loss.p_worse <= 0.05 for loss in found]) < 0.95
