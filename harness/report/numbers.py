"""Numbers as an expert reads them: three significant digits, and one sensible unit for a whole column."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records.record import Metric
from harness.records.statistics import quantile, relative_spread

STEPS = {
    "ms": [("µs", 1e-3, 0.0), ("ms", 1.0, 0.1), ("s", 1e3, 1e4)],
    "bytes": [("B", 1.0, 0.0), ("KiB", 2.0**10, 2.0**10), ("MiB", 2.0**20, 2.0**20), ("GiB", 2.0**30, 2.0**30)],
}
"""Stored unit -> (shown unit, its size in stored units, from which typical value on it is used)."""

COUNTED = ("tokens", "B", "B/token", "B/thread", "registers")
"""Shown units of things that are counted, not measured."""

UNCERTAIN = "±?"
"""Shown instead of a spread when there is a single sample."""


def unit_for(unit: str, values: Sequence[float]) -> tuple[str, float]:
    """The unit to show values in, and what to divide them by.

    >>> unit_for("bytes/token", [4096.0, 8192.0])
    ('KiB/token', 1024.0)
    """
    if unit == "fraction":
        return "%", 0.01
    base, slash, per = unit.partition("/")
    if base not in STEPS or not values:
        return unit, 1.0
    typical = quantile([abs(value) for value in values], 0.5)
    name, size, _ = [step for step in STEPS[base] if typical >= step[2]][-1]
    return name + slash + per, size


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, without an exponent between 0.001 and a million.

    >>> [number(value) for value in (0.0, 3.14159, 41.26, 100.0, 12345.0, 1.0e-6)]
    ['0', '3.14', '41.3', '100', '12,300', '1.0e-06']
    """
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits - 1}e}")
    magnitude = math.floor(math.log10(abs(rounded)))
    if not -3 <= magnitude < 6:
        return f"{value:.1e}"
    return f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"


def quantity(value: float, unit: str) -> str:
    """A number of a shown unit: counts are whole, everything else has three significant digits.

    >>> quantity(16.0, "tokens"), quantity(16.0, "ms")
    ('16', '16.0')
    """
    counted = unit in COUNTED and float(value).is_integer() and abs(value) < 1e4
    return f"{value:,.0f}" if counted else number(value)


def change(value: float, unit: str) -> str:
    """A difference with its sign: tenths of a percentage point, two significant digits of anything else.

    >>> change(-2.345, "%"), change(0.02345, "bits/byte")
    ('-2.3', '+0.023')
    """
    return f"{value:+.1f}" if unit == "%" else f"{'-' if value < 0 else '+'}{number(abs(value), 2)}"


def ratio(value: float) -> str:
    """A ratio to the baseline.

    >>> [ratio(value) for value in (1.0, 0.4567, 12.34, 113.2, 0.00894)]
    ['x1.00', 'x0.46', 'x12.3', 'x113', 'x0.0089']
    """
    if value >= 100:
        return f"x{value:,.0f}"
    if value >= 10:
        return f"x{value:.1f}"
    if value >= 0.1 or value == 0:
        return f"x{value:.2f}"
    return f"x{value:.2g}"


def spread(samples: Sequence[float]) -> str:
    """Half the interquartile range in percent of the median.

    >>> spread([90.0, 100.0, 110.0])
    '±5%'
    """
    if len(samples) < 2:
        return UNCERTAIN
    percent = 100 * relative_spread(samples)
    return f"±{percent:.1f}%" if percent < 0.95 else f"±{percent:.0f}%"


def standard_error(metric: Metric) -> float | None:
    """Of a mean over documents: sample standard deviation over the root of their number; None for other metrics."""
    count = len(metric.samples)
    if metric.statistic != "mean" or count < 2:
        return None
    mean = sum(metric.samples) / count
    return math.sqrt(sum((sample - mean) ** 2 for sample in metric.samples) / (count - 1) / count)
