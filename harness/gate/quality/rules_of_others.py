"""The decision rules of other tools, applied to recorded samples: what would they have said?

The names stand for a tool's rule, not for running the tool. Every rule takes milliseconds a and b of shape
[windows, turns, samples] and answers, window by window, whether it would raise "B is slower". A turn stands for one run
of the tool's (`-count`, `--benchmark-min-rounds`, a value of a process), its samples for what that run averages over.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]

RESAMPLES = 500
"""Bootstrap resamples of the criterion-like rule (criterion.rs itself takes 100,000)."""


def fixed_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A fixed 5% on means: what a first hand-written gate does."""
    return b.mean((1, 2)) > 1.05 * a.mean((1, 2))


def fixed_median(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A fixed 5% on medians (pytest-benchmark's `median:5%`)."""
    return np.median(b, (1, 2)) > 1.05 * np.median(a, (1, 2))


def fixed_min(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """pytest-benchmark's `--benchmark-compare-fail=min:5%`."""
    return b.min((1, 2)) > 1.05 * a.min((1, 2))


def benchstat(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """benchstat: two-sided Mann-Whitney p < 0.05 over runs, and the median is higher."""
    return _mann_whitney(a.mean(2), b.mean(2)) & (np.median(b.mean(2), 1) > np.median(a.mean(2), 1))


def benchstat_and_5(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """benchstat with a minimum effect of 5%, as users add it."""
    return benchstat(a, b) & (np.median(b.mean(2), 1) > 1.05 * np.median(a.mean(2), 1))


def google_benchmark(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Google Benchmark's compare.py and pooled benchstat: Mann-Whitney p < 0.05 over all samples."""
    return _mann_whitney(_pooled(a), _pooled(b)) & (np.median(b, (1, 2)) > np.median(a, (1, 2)))


def asv(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """asv continuous: Mann-Whitney p < 0.002 over all samples, and the medians differ by the factor 1.1."""
    return _asv(a, b, 1.1)


def asv_105(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """asv continuous --factor 1.05."""
    return _asv(a, b, 1.05)


def pyperf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """pyperf compare_to: Student's t over all values, 95%."""
    test = stats.ttest_ind(_pooled(b), _pooled(a), axis=1)
    return (test.pvalue < 0.05) & (test.statistic > 0)


def criterion(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """criterion.rs: bootstrapped interval of the relative change of the mean, whole above its noise threshold of 1%."""
    rng = np.random.default_rng(0)
    changes = _resampled_means(b, rng) / _resampled_means(a, rng) - 1
    return np.quantile(changes, 0.025, axis=1) > 0.01


RULES: dict[str, Rule] = {
    "fixed 5% on means": fixed_mean,
    "fixed 5% on medians": fixed_median,
    "pytest-benchmark `min:5%`": fixed_min,
    "benchstat (Mann-Whitney)": benchstat,
    "benchstat and 5%": benchstat_and_5,
    "Google Benchmark (Mann-Whitney, pooled)": google_benchmark,
    "asv (factor 1.1)": asv,
    "asv --factor 1.05": asv_105,
    "pyperf (t-test)": pyperf,
    "criterion (bootstrap, 1%)": criterion,
}


def _pooled(samples: np.ndarray) -> np.ndarray:
    return samples.reshape(len(samples), -1)


def _mann_whitney(a: np.ndarray, b: np.ndarray, level: float = 0.05) -> np.ndarray:
    """Whether the two-sided test rejects, row by row."""
    return stats.mannwhitneyu(b, a, axis=1).pvalue < level


def _asv(a: np.ndarray, b: np.ndarray, factor: float) -> np.ndarray:
    return _mann_whitney(_pooled(a), _pooled(b), 0.002) & (np.median(b, (1, 2)) > factor * np.median(a, (1, 2)))


def _resampled_means(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[windows, resamples]: means of samples drawn with replacement, the same draw for every window."""
    pooled = _pooled(samples)
    drawn = rng.integers(pooled.shape[1], size=(RESAMPLES, pooled.shape[1]))
    return np.stack([pooled[:, one].mean(1) for one in drawn], 1)
