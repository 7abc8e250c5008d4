"""What a number of pairs could have shown: the smallest slow-down that the sequential test would have called.

A test that found nothing says little until one knows what it would have found. Three things have to come together for
a regression (`sequential`): enough pairs beyond what is tolerated, a median beyond the middle of the margins, and
processes that agree. Each asks for a slow-down of its own size; the largest is the answer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

from harness.gate.statistics.agreement import centre_for
from harness.gate.statistics.boundary import heads_needed
from harness.gate.statistics.levels import MAD_TO_DEVIATION, POWER
from harness.gate.statistics.sequential import Design, Floats, Spread, first_pairs
from harness.records.statistics import t_quantile


def shown_by(log_ratios: Sequence[Floats], design: Design) -> float | None:
    """The smallest slow-down, relative, that pairs as noisy as these would have shown with about 80% chance.

    `log_ratios` are as in `sequential.decide`. Where processes differ by more than pairs do, the chance is nearer to
    60%, because the three conditions have to hold together. None before the first look, or with too few processes or
    pairs for any verdict.
    """
    reached = [number for number, look in enumerate(design.looks) if look <= sum(map(len, log_ratios))]
    if not reached:
        return None
    processes = first_pairs(log_ratios, design.looks[reached[-1]])
    heads = heads_needed(design.looks, design.alpha, reached[-1], POWER)
    if heads is None or len(processes) < design.processes:
        return None
    needed = _by_signs(processes, design, heads), _by_median(processes, design), _by_processes(processes, design)
    return math.expm1(max(needed))


def _by_signs(processes: Sequence[Floats], design: Design, heads: float) -> float:
    """The centre from which a share `heads` of the pairs lies beyond what is tolerated."""
    return math.log1p(design.margins.tolerate) + statistics.NormalDist().inv_cdf(heads) * _deviation(processes)


def _by_median(processes: Sequence[Floats], design: Design) -> float:
    """The centre from which the median lies beyond the middle of the margins."""
    return design.margins.middle + t_quantile(POWER, len(processes) - 1) * Spread.of(processes).error


def _by_processes(processes: Sequence[Floats], design: Design) -> float:
    """The centre from which the processes' medians agree on being beyond what is tolerated."""
    reach = centre_for(POWER, design.disagreement, len(processes) - 1)
    return math.log1p(design.margins.tolerate) + reach * Spread.of(processes).error


def _deviation(processes: Sequence[Floats]) -> float:
    """Robust standard deviation of all pairs."""
    pairs = np.concatenate(processes)
    return MAD_TO_DEVIATION * float(np.median(np.abs(pairs - np.median(pairs))))
