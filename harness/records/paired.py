"""Two variants' scores on the same documents: their mean difference, with an interval that uses the pairing.

Only documents on which the two differ carry information about the difference, so the intervals are far narrower than
two independent standard errors would allow. Documents that share text are not independent: they form one unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.records.statistics import t_quantile


@dataclass(frozen=True)
class PairedDifference:
    """Own mean score less the baseline's, with its two-sided interval."""

    estimate: float
    low: float
    high: float
    lost: int
    """Documents on which the baseline has the higher score."""
    gained: int
    """Documents on which the own score is higher."""
    documents: int
    units: int
    """Independent ones: as many as documents, fewer where documents share text."""


def paired_difference(
    differences: Sequence[float], units: Sequence[Hashable], right_or_wrong: bool, confidence: float = 0.95
) -> PairedDifference:
    """From every document's own score less the baseline's; `units` says which documents belong together.

    Where scores are right or wrong (1 and 0): Tango's score interval, for the smaller sample of independent documents
    that units are worth. Any other score: a t interval of the mean difference. Raises ValueError without a document.
    """
    if not differences:
        raise ValueError("no document to compare on")
    count, miss = len(differences), (1 - confidence) / 2
    estimate = math.fsum(differences) / count
    lost, gained = sum(one < 0 for one in differences), sum(one > 0 for one in differences)
    if right_or_wrong:
        effect = design_effect(differences, units)
        low, high = score_bounds(gained / effect, lost / effect, count / effect, miss)
    else:
        reach = t_quantile(1 - miss, len(set(units)) - 1) * standard_error(differences, units)
        low, high = estimate - reach, estimate + reach
    return PairedDifference(estimate, low, high, lost, gained, count, len(set(units)))


def score_bounds(gained: float, lost: float, documents: float, miss: float) -> tuple[float, float]:
    """Lower and upper bound on the true (gained - lost) / documents, each wrong with the chance `miss`.

    Tango's score method for paired proportions (Statistics in Medicine 17, 1998): honest also where no document, or
    hardly one, is discordant. Counts may be fractions: those of a smaller sample with the same information.
    """
    z = NormalDist().inv_cdf(1 - miss)
    estimate = (gained - lost) / documents
    high = _root(lambda delta: _score(gained, lost, documents, delta) + z, estimate, 1.0)
    low = _root(lambda delta: _score(gained, lost, documents, delta) - z, -1.0, estimate)
    return low, high


def standard_error(differences: Sequence[float], units: Sequence[Hashable]) -> float:
    """Of the mean difference, from the spread between units; infinite for a single unit.

    The ratio estimator's, since units need not be of one size (Miller, arXiv 2411.00640, section 2.2).
    """
    sums, sizes = _by_unit(differences, units)
    if len(sums) < 2:
        return math.inf
    mean = math.fsum(sums) / sum(sizes)
    spread = math.fsum((one - mean * size) ** 2 for one, size in zip(sums, sizes, strict=True))
    return math.sqrt(spread * len(sums) / (len(sums) - 1)) / sum(sizes)


def design_effect(differences: Sequence[float], units: Sequence[Hashable]) -> float:
    """How many documents in units are worth one alone (Kish): variance over that of independent ones, at least 1."""
    alone = standard_error(differences, range(len(differences)))
    together = standard_error(differences, units)
    if not 0 < alone < math.inf:
        return 1.0
    return min(max(1.0, (together / alone) ** 2), float(len(differences)))


def _by_unit(differences: Sequence[float], units: Sequence[Hashable]) -> tuple[list[float], list[int]]:
    """Sum of differences and number of documents of every unit."""
    sums: dict[Hashable, float] = {}
    sizes: dict[Hashable, int] = {}
    for unit, value in zip(units, differences, strict=True):
        sums[unit] = sums.get(unit, 0.0) + value
        sizes[unit] = sizes.get(unit, 0) + 1
    return list(sums.values()), list(sizes.values())


def _score(gained: float, lost: float, documents: float, delta: float) -> float:
    """Tango's statistic for a true difference of `delta`: falls from large to small as `delta` grows."""
    b = -gained - lost + (2 * documents - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    share = (math.sqrt(max(0.0, b * b - 8 * documents * c)) - b) / (4 * documents)
    variance = documents * (2 * share + delta * (1 - delta))
    distance = gained - lost - documents * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between two points, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
