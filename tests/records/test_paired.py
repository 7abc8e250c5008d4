"""Intervals of paired differences cover the truth as often as they say, for clustered documents too."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from harness.records.paired import design_effect, paired_difference, score_bounds, standard_error

CONFIDENCE = 0.95
MISS = (1 - CONFIDENCE) / 2


def trinomial(documents: int, gain: float, loss: float) -> Iterator[tuple[int, int, float]]:
    """Every (gained, lost) with its probability."""
    for gained in range(documents + 1):
        for lost in range(documents - gained + 1):
            ways = math.comb(documents, gained) * math.comb(documents - gained, lost)
            yield gained, lost, ways * gain**gained * loss**lost * (1 - gain - loss) ** (documents - gained - lost)


@pytest.mark.parametrize("documents", [12, 40])
@pytest.mark.parametrize(
    ("gain", "loss"), [(0.1, 0.1), (0.02, 0.02), (0.0, 0.3), (0.05, 0.25), (0.3, 0.3), (0.01, 0.1)]
)
def test_the_score_interval_covers_the_true_difference(documents: int, gain: float, loss: float) -> None:
    covered = 0.0
    for gained, lost, probability in trinomial(documents, gain, loss):
        if probability > 1e-9:
            low, high = score_bounds(gained, lost, documents, MISS)
            covered += probability * (low <= gain - loss <= high)
    assert covered > 0.925


def test_it_is_as_narrow_as_the_pairing_allows() -> None:
    """500 documents, 2 % of them discordant, beside two independent shares around 95 %."""
    low, high = score_bounds(5, 5, 500, MISS)
    independent = 1.96 * math.sqrt(2 * 0.95 * 0.05 / 500)
    assert high - low < 0.6 * 2 * independent


@pytest.mark.parametrize(("gained", "lost", "documents"), [(1, 0, 44), (9, 2, 44), (0, 7, 60), (30, 25, 500)])
def test_at_its_bounds_the_score_is_the_normal_quantile(gained: int, lost: int, documents: int) -> None:
    """With the share of losses that is most likely for this difference found by search, not by Tango's formula."""
    for bound, z in zip(score_bounds(gained, lost, documents, MISS), (1.95996, -1.95996), strict=True):

        def likelihood(share: float, bound: float = bound) -> float:
            chances = (share + bound, share, 1 - 2 * share - bound)
            counts = (gained, lost, documents - gained - lost)
            return sum(n * math.log(p) if n else 0.0 for n, p in zip(counts, chances, strict=True))

        low, high = max(0.0, -bound) + 1e-12, (1 - bound) / 2 - 1e-12
        for _ in range(200):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (left, high) if likelihood(left) < likelihood(right) else (low, right)
        variance = documents * (2 * low + bound - bound**2)
        assert (gained - lost - documents * bound) / math.sqrt(variance) == pytest.approx(z, rel=1e-4)


def test_without_a_discordant_document_it_is_not_certain() -> None:
    found = paired_difference([0.0] * 500, range(500), right_or_wrong=True)
    assert (found.estimate, found.lost, found.gained) == (0.0, 0, 0)
    assert -0.01 < found.low < 0 < found.high < 0.01


def test_swapped_sides_mirror_the_interval() -> None:
    differences = [1.0] * 3 + [-1.0] * 9 + [0.0] * 88
    found = paired_difference(differences, range(100), right_or_wrong=True)
    mirrored = paired_difference([-one for one in differences], range(100), right_or_wrong=True)
    assert (found.low, found.high) == (pytest.approx(-mirrored.high), pytest.approx(-mirrored.low))
    assert (found.gained, found.lost, found.estimate) == (3, 9, pytest.approx(-0.06))
    assert found.low < found.estimate < found.high


def clustered(rng: random.Random, clusters: int, size: int) -> tuple[list[float], list[int]]:
    """Documents of a cluster mostly fare alike: lost in a tenth of the clusters, gained in a tenth."""
    values: list[float] = []
    for _ in range(clusters):
        mood = rng.choices([-1.0, 0.0, 1.0], [0.1, 0.8, 0.1])[0]
        values += [mood if rng.random() < 0.9 else 0.0 for _ in range(size)]
    return values, [number // size for number in range(clusters * size)]


@pytest.mark.parametrize("right_or_wrong", [True, False])
def test_documents_that_share_a_text_widen_the_interval(right_or_wrong: bool) -> None:
    rng = random.Random(5)
    trials = [clustered(rng, clusters=60, size=5) for _ in range(400)]
    covered = {
        name: sum(
            found.low <= 0 <= found.high
            for values, units in trials
            for found in [paired_difference(values, units if name == "units" else range(300), right_or_wrong)]
        )
        / len(trials)
        for name in ("units", "alone")
    }
    assert 0.92 < covered["units"] < 0.98
    assert covered["alone"] < 0.75


def test_the_t_interval_covers_the_mean_of_other_scores() -> None:
    rng = random.Random(3)
    covered = 0
    for _ in range(400):
        found = paired_difference([rng.gauss(0.3, 1.0) for _ in range(8)], range(8), right_or_wrong=False)
        covered += found.low <= 0.3 <= found.high
    assert 0.92 < covered / 400 < 0.98


def test_units_of_unlike_sizes_count_by_their_documents() -> None:
    values, units = [0.3, 0.5, 0.1, 0.7, 0.2], ["a", "a", "b", "c", "c"]
    mean = sum(values) / 5
    residuals = [0.8 - 2 * mean, 0.1 - mean, 0.9 - 2 * mean]
    expected = math.sqrt(3 / 2 * sum(one**2 for one in residuals)) / 5
    assert standard_error(values, units) == pytest.approx(expected)


def test_design_effect_of_equal_documents_is_the_size_of_their_units() -> None:
    values = [float(number // 4 % 2) for number in range(400)]
    assert design_effect(values, [number // 4 for number in range(400)]) == pytest.approx(4, rel=0.05)
    assert design_effect(values, range(400)) == 1.0
    assert design_effect([0.0] * 9, [0] * 9) == 1.0


def test_a_single_unit_says_nothing() -> None:
    found = paired_difference([1.0, 0.0, 1.0, 0.0], ["one"] * 4, right_or_wrong=True)
    assert found.low < -0.5
    assert found.high > 0.9
    found = paired_difference([0.1, 0.2], ["one"] * 2, right_or_wrong=False)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_no_document_is_an_error() -> None:
    with pytest.raises(ValueError, match="no document"):
        paired_difference([], [], right_or_wrong=True)
