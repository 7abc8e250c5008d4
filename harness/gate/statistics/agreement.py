"""The chance that processes agree: the power of the one-sided t-test over their medians (noncentral t)."""

from __future__ import annotations

from scipy import optimize, stats

from harness.records.statistics import t_quantile

FARTHEST = 1e4
"""Standard errors beyond which no centre is looked for; two processes at a level of 0.1% still ask for less."""


def agreement(centre: float, level: float, degrees: int) -> float:
    """The chance of a test at `level` for a mean that lies `centre` of its standard errors beyond what it must beat."""
    return float(stats.nct.sf(t_quantile(1 - level, degrees), degrees, centre))


def centre_for(chance: float, level: float, degrees: int) -> float:
    """How many standard errors beyond what it must beat a mean has to lie for such a chance to pass a test at `level`.

    `chance` is above `level`, which a mean with no distance has. Raises ValueError otherwise.
    """
    return float(optimize.brentq(lambda centre: agreement(centre, level, degrees) - chance, 0.0, FARTHEST))
