"""The turns of a stored cell: the finest unit of a run whose values can be called independent, and hardly that.

Samples of one turn share everything that is slow on a machine, so a turn counts once, by its mean: a mean sees a
slow-down that hits every other call, a minimum does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.record import Record

MISS = 0.05
"""Chance of passing what is just bad enough to be caught, where the machine's drift stays below its limit."""
POWER = 0.8
"""The chance with which the smallest effect that "could have been shown" would have been."""


@dataclass(frozen=True)
class Turns:
    """One metric of one record, a logarithm a turn."""

    logs: list[float]
    """Natural logarithms of the turns' means, in the order in which they were taken."""

    @classmethod
    def of(cls, record: Record, metric: str) -> Turns:
        """The turns of a metric that is not withheld. A metric with one sample a turn has one value a turn."""
        samples = record.metrics[metric].samples
        count = len(record.context.get("turns") or samples)
        size = len(samples) // count if count and len(samples) % count == 0 else 1
        means = (statistics.fmean(samples[start : start + size]) for start in range(0, len(samples), size))
        return cls([math.log(mean) for mean in means if mean > 0])

    @property
    def mean(self) -> float:
        """Mean logarithm; the cell's summary."""
        return statistics.fmean(self.logs) if self.logs else math.nan

    @property
    def error(self) -> float:
        """Squared standard error of `mean`; infinite for a single turn, which tells nothing about its noise."""
        return statistics.variance(self.logs) / len(self.logs) if len(self.logs) > 1 else math.inf


def reach(turns: Turns, level: float) -> float:
    """How far, in logarithms, the truth may lie to one side of the value; it lies beyond with chance 1 - `level`."""
    return t_quantile(level, len(turns.logs) - 1) * math.sqrt(turns.error) if turns.error else 0.0


def welch(base: Turns, new: Turns) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom (Welch 1947, Satterthwaite 1946)."""
    errors = (base.error, new.error)
    total = sum(errors)
    if math.isinf(total) or total == 0:
        return math.sqrt(total), float(min(len(base.logs), len(new.logs)) - 1)
    parts: Sequence[float] = [error**2 / (len(side.logs) - 1) for error, side in zip(errors, (base, new), strict=True)]
    return math.sqrt(total), total**2 / sum(parts)


def t_quantile(level: float, degrees: float) -> float:
    """Quantile of Student's t; infinite without a degree of freedom."""
    from scipy import special

    return math.inf if degrees <= 0 else float(special.stdtrit(degrees, level))
