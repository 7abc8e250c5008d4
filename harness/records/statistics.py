"""Statistics over samples, torch-free and without NumPy, so that reports start fast."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence


def quantile(samples: Sequence[float], q: float) -> float:
    """Linear-interpolation quantile (the usual type 7), 0 <= q <= 1.

    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def relative_spread(samples: Sequence[float]) -> float:
    """Half the interquartile range over the median: the +- shown beside a value. 0 for fewer than two samples."""
    middle = quantile(samples, 0.5)
    if len(samples) < 2 or middle == 0:
        return 0.0
    return (quantile(samples, 0.75) - quantile(samples, 0.25)) / 2 / abs(middle)


def half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half the t interval of the mean of independent values; infinite for fewer than two.

    >>> round(half_width([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 2:
        return math.inf
    quantile = t_quantile((1 + confidence) / 2, len(values) - 1)
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def t_quantile(level: float, degrees: float) -> float:
    """Quantile of Student's t; infinite without a degree of freedom."""
    from scipy import special

    return math.inf if degrees <= 0 else float(special.stdtrit(degrees, level))


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": lambda samples: quantile(samples, 0.5),
    "mean": statistics.fmean,
    "max": max,
    "min": min,
    "p90": lambda samples: quantile(samples, 0.9),
    "p99": lambda samples: quantile(samples, 0.99),
}
