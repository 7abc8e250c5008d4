"""Statistics of a loss on the same documents: exact tests, intervals, and what could have been shown.

Everything here speaks of losses: positive when the new side is worse. Two sides answer the same documents, so only the
documents on which they differ carry information, and two independent standard errors would throw that away.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.gate.statistics.levels import POWER
from harness.records.paired import score_bounds

FEWEST_SUBSETS, MOST_SUBSETS = 2_000, 50_000
MOST_UNITS = 500
CHUNK = 1_000
SUBSETS_PER_TAIL = 20
"""Random subsets that lie beyond a bound at least, so that the draw moves it little."""


@dataclass(frozen=True)
class Loss:
    """The mean loss over documents, with everything a verdict needs."""

    estimate: float
    low: float
    high: float
    """One-sided bounds, each wrong with the chance `miss` that it was made with."""
    p_worse: float
    """Chance of so large a loss, or a larger one, were there none."""
    p_better: float
    detectable: float
    """The smallest loss that would have been shown at `alpha` with 80% chance."""
    variance: float
    """Of one document's (or cluster's) loss, per document: what a planner needs."""


def binary_loss(lost: int, gained: int, documents: int, alpha: float, miss: float) -> Loss:
    """Right/wrong scores of independent documents: `lost` were right on the base only, `gained` on the new side only.

    Exact McNemar test (the sign test on the discordant documents); bounds by Tango's score method (Statistics in
    Medicine 17, 1998), which stay honest when no document is discordant.
    """
    share = (lost + gained) / documents
    low, high = score_bounds(lost, gained, documents, miss)
    estimate = (lost - gained) / documents
    fewest = math.ceil(math.log2(1 / alpha)) / documents  # so many losses and no gain make p <= alpha
    return Loss(
        estimate=estimate,
        low=low,
        high=high,
        p_worse=_sign_p(lost, lost + gained),
        p_better=_sign_p(gained, lost + gained),
        detectable=max(fewest, _normal_reach(alpha) * math.sqrt(share / documents)),
        variance=max(share - estimate**2, 1 / documents),
    )


def mean_loss(sums: Sequence[float], sizes: Sequence[int], alpha: float, miss: float, seed: int = 0) -> Loss:
    """Any scores, or clustered documents: `sums` are the losses summed over each independent unit of `sizes` documents.

    Sign-flipping of the units, inverted: the mean of a random subset of units is a typical value of the true mean, so
    quantiles of such means are bounds that are exact for symmetric losses (Hartigan, JASA 64, 1969).
    """
    total, units = sum(sizes), len(sizes)
    estimate = math.fsum(sums) / total
    subsets = _Subsets.draw(*_bundled(np.asarray(sums, float), np.asarray(sizes, float), seed), min(alpha, miss), seed)
    residuals = (one - estimate * size for one, size in zip(sums, sizes, strict=True))
    variance = float(sum(one * one for one in residuals)) / max(1, units - 1) * units / total
    return Loss(
        estimate=estimate,
        low=subsets.lower_bound(miss),
        high=-subsets.mirrored().lower_bound(miss),
        p_worse=subsets.p_positive(),
        p_better=subsets.mirrored().p_positive(),
        detectable=_normal_reach(alpha) * math.sqrt(variance / total),
        variance=variance,
    )


def documents_needed(variance: float, margin: float, alpha: float, miss: float) -> int:
    """How many documents decide between "no loss" and "a loss of `margin`": n = (z + z)^2 variance / margin^2."""
    reach = statistics.NormalDist().inv_cdf(1 - alpha) + statistics.NormalDist().inv_cdf(1 - miss)
    return math.ceil(reach**2 * variance / margin**2)


# --- right or wrong -----------------------------------------------------------------------------------


def _sign_p(heads: int, coins: int) -> float:
    return float(special.bdtrc(heads - 1, coins, 0.5)) if heads > 0 else 1.0


def _normal_reach(alpha: float) -> float:
    normal = statistics.NormalDist()
    return normal.inv_cdf(1 - alpha) + normal.inv_cdf(POWER)


# --- any score ----------------------------------------------------------------------------------------


def _bundled(sums: np.ndarray, sizes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Many units in `MOST_UNITS` random bundles: the sign of a bundle is as fair a coin."""
    if len(sums) <= MOST_UNITS:
        return sums, sizes
    bundles = np.random.default_rng([seed, len(sums)]).permutation(len(sums)) % MOST_UNITS
    return np.bincount(bundles, sums), np.bincount(bundles, sizes)


@dataclass(frozen=True)
class _Subsets:
    """Means over random subsets of the units; the empty ones stand for "no sign was flipped"."""

    means: np.ndarray
    """Of the non-empty subsets, ascending."""
    empty: int

    @classmethod
    def draw(cls, sums: np.ndarray, sizes: np.ndarray, level: float, seed: int) -> _Subsets:
        """As many subsets as a bound at `level` needs; the same ones for the same seed."""
        count = int(min(MOST_SUBSETS, max(FEWEST_SUBSETS, SUBSETS_PER_TAIL / level)))
        generator = np.random.default_rng(seed)
        means: list[np.ndarray] = []
        for start in range(0, count, CHUNK):
            taken = generator.integers(0, 2, (min(CHUNK, count - start), len(sums))).astype(float)
            weight = taken @ sizes
            means.append((taken @ sums)[weight > 0] / weight[weight > 0])
        found = np.sort(np.concatenate(means))
        return cls(found, count - len(found))

    def mirrored(self) -> _Subsets:
        """The same for gains in place of losses."""
        return _Subsets(-self.means[::-1], self.empty)

    def p_positive(self) -> float:
        """Monte Carlo p of the sign-flip test that the mean is above zero; never below what so few units allow."""
        beyond = int((self.means <= 0).sum()) + self.empty
        return (1 + beyond) / (1 + len(self.means) + self.empty)

    def lower_bound(self, level: float) -> float:
        """The k-th smallest of n typical values, k = level (n + 1), lies above the true mean with chance `level`."""
        rank = math.floor(level * (len(self.means) + self.empty + 1)) - self.empty
        return float(self.means[rank - 1]) if rank >= 1 else -math.inf
