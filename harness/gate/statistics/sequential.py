"""Is B slower than A? An exact sign test that looks several times and knows three answers and "go on".

The data are log ratios log(B / A) of pairs: two turns next to each other, in random order. When neither side is
slower, the signs are fair coins whatever the drift, the autocorrelation and the tails of the noise, so every bound
here is exact for the number of looks taken. Two margins make it a decision: what is tolerated, and what must be
caught. The restarted process is the unit of agreement: pairs of one pair of processes share their memory layout, so
no verdict rests on fewer than `Design.processes` of them, nor on processes that disagree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from harness.errors import UsageError
from harness.gate.statistics.boundary import boundary, sign_p
from harness.gate.verdict import Verdict
from harness.records.statistics import t_quantile

Floats: TypeAlias = Sequence[float] | np.ndarray

VISIT_SECONDS = 0.5
"""What a cell gets at its first visit, both sides together, before its turn comes again in freshly started workers."""

FEWEST_PAIRS, MOST_PAIRS = 5, 40
"""Pairs of turns of the first visit, whatever they take."""

USEFUL_PAIRS, USEFUL_SECONDS = 12, 4.0
"""So many pairs as long as they take no longer than this: with fewer, restarting workers costs more than they tell."""

VISIT_SIZES = (1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4)
"""Visits by their length in first ones. Later ones are longer: restarting workers takes longer than any of them."""

FEWEST_VISITS = 3
"""Visits after which a decision is tried first, and then after every one: a verdict needs so many restarts."""


def pairs_per_visit(turn_seconds: float) -> int:
    """As many pairs of turns as fill the first visit: noise falls with their number, and many short ones cost no more.

    >>> pairs_per_visit(0.01), pairs_per_visit(0.1), pairs_per_visit(2.0)
    (25, 12, 5)
    """
    if not turn_seconds:
        return MOST_PAIRS
    filling, useful = (round(seconds / 2 / turn_seconds) for seconds in (VISIT_SECONDS, USEFUL_SECONDS))
    return min(MOST_PAIRS, max(FEWEST_PAIRS, filling, min(USEFUL_PAIRS, useful)))


def looks_at(pairs: int) -> tuple[int, ...]:
    """Numbers of pairs at which a decision is tried when the first visit has so many."""
    return tuple(pairs * size for size in accumulate(VISIT_SIZES))[FEWEST_VISITS - 1 :]


@dataclass(frozen=True)
class Margins:
    """Relative slow-downs: up to `tolerate` nothing is wrong, `catch` and more must be found."""

    tolerate: float = 0.01
    catch: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.tolerate < self.catch:
            given = f"tolerate {self.tolerate:g}, catch {self.catch:g}"
            raise UsageError(f"margins need 0 <= tolerate < catch, not {given}")

    @property
    def middle(self) -> float:
        """Log ratio half-way between the two: no cell is called slower below it, none passes above it."""
        return (math.log1p(self.tolerate) + math.log1p(self.catch)) / 2


@dataclass(frozen=True)
class Design:
    """How one cell is decided, fixed before its first pair. Raises UsageError for what cannot be."""

    margins: Margins = Margins()
    alpha: float = 1e-4
    """Bound on calling a tolerated cell slower, over all looks; as much again for calling it faster."""
    miss: float = 0.005
    """Bound on passing a cell that is slower by `margins.catch` or more, over all looks."""
    looks: tuple[int, ...] = looks_at(FEWEST_PAIRS)
    """Pairs at which a decision is tried; the last is the cap."""
    processes: int = FEWEST_VISITS
    """Restarts that a verdict needs: pairs of processes with at least one pair of turns each."""
    disagreement: float = 0.002
    """One-sided level of the t-test over processes that has to support a regression or an improvement."""
    doubt: float = 0.02
    """The same for a pass: the upper 98% bound by processes alone has to lie below what must be caught."""

    def __post_init__(self) -> None:
        if not all(0 < level < 1 for level in (self.alpha, self.miss, self.disagreement, self.doubt)):
            raise UsageError("alpha, miss, disagreement and doubt are probabilities between 0 and 1")
        if not self.looks or list(self.looks) != sorted(set(self.looks)) or self.looks[0] < 1:
            raise UsageError(f"looks have to be rising numbers of pairs, not {list(self.looks)}")
        if self.processes < 2:
            raise UsageError(f"a verdict needs at least 2 processes a side, not {self.processes}")

    @property
    def cap(self) -> int:
        """Pairs after which an undecided cell is inconclusive."""
        return self.looks[-1]

    def paced(self, turn_seconds: float) -> Design:
        """The same with as many pairs a visit as turns of such a length allow."""
        return replace(self, looks=looks_at(pairs_per_visit(turn_seconds)))

    def over(self, cells: int) -> Design:
        """The same with `alpha` split evenly over so many cells (Bonferroni): a bound for all of them together."""
        if cells < 1:
            raise UsageError(f"alpha is split over at least one cell, not {cells}")
        return replace(self, alpha=self.alpha / cells)


@dataclass(frozen=True)
class Effect:
    """How much slower B is: the estimated ratio, and an interval whose unit is the process."""

    ratio: float
    """Median of B / A over all pairs."""
    low: float
    high: float
    """The interval; 0 and infinity while there is only one process a side."""
    pairs: int
    processes: int


@dataclass(frozen=True)
class Decision:
    """A verdict on one cell and what it rests on."""

    verdict: Verdict
    """Pass, regression, improvement or inconclusive."""
    effect: Effect
    p: float
    """Exact one-sided probability of so many signs by chance, at this look alone."""
    reason: str


def decide(log_ratios: Sequence[Floats], design: Design, final: bool = False) -> Decision | None:
    """The verdict on a cell, or None while more pairs are needed.

    `log_ratios` holds log(B / A) of every pair, one inner sequence a pair of processes, in the order in which they were
    taken; for a metric where more is better, log(A / B). Only whole looks count: pairs after the last look that was
    reached wait for the next one. At the cap, or when `final` says that nobody will measure on, an open question
    is `inconclusive`. Raises UsageError for a ratio that is not finite.
    """
    taken = sum(len(process) for process in log_ratios)
    if not all(math.isfinite(x) for process in log_ratios for x in process):
        raise UsageError("log ratios have to be finite: a timing was zero, negative or missing")
    reached = [number for number, look in enumerate(design.looks) if look <= taken]
    last = final or taken >= design.cap
    if not reached:
        return _inconclusive(log_ratios, f"{taken} pairs; the first decision needs {design.looks[0]}") if last else None
    look = _Look(first_pairs(log_ratios, design.looks[reached[-1]]), reached[-1], design)
    return look.decision() or (look.late(log_ratios) if last else None)


def turn_value(samples: Sequence[float]) -> float:
    """One number for the samples of a turn: their mean without the lowest and the highest fifth.

    Symmetric, so that a slow-down of every other call counts by its mean; a minimum would not see it.
    """
    cut = len(samples) // 5
    return statistics.fmean(sorted(samples)[cut : len(samples) - cut])


def effect(log_ratios: Sequence[Floats], confidence: float = 0.95) -> Effect:
    """Median ratio, and a t interval over the processes' medians, weighted by their pairs (a ratio estimator).

    Raises UsageError when there is no pair.
    """
    processes = [process for process in log_ratios if len(process)]
    if not processes:
        raise UsageError("no pair of turns was measured")
    middle = float(np.median(np.concatenate(processes)))
    spread = Spread.of(processes)
    reach = spread.error * t_quantile((1 + confidence) / 2, spread.processes - 1)
    low, high = min(middle, spread.mean - reach), max(middle, spread.mean + reach)
    pairs = sum(len(process) for process in processes)
    return Effect(math.exp(middle), math.exp(low), _exp(high), pairs, len(processes))


# --- one look -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The mean of the processes' medians and its standard error, both weighted by pairs."""

    mean: float
    error: float
    processes: int

    @classmethod
    def of(cls, processes: Sequence[Floats]) -> Spread:
        weights = np.array([len(process) for process in processes], dtype=float)
        medians = np.array([np.median(process) for process in processes])
        mean = float(weights @ medians / weights.sum())
        if len(processes) == 1:
            return cls(mean, math.inf, 1)
        correction = len(processes) / (len(processes) - 1)
        variance = correction * float(weights**2 @ (medians - mean) ** 2) / float(weights.sum()) ** 2
        return cls(mean, math.sqrt(variance), len(processes))


class _Look:
    """The pairs up to one look, and every test on them."""

    def __init__(self, processes: list[Floats], number: int, design: Design) -> None:
        self.processes = processes
        self.number = number
        self.design = design
        self.x = np.concatenate(processes)
        self.median = float(np.median(self.x))

    def decision(self) -> Decision | None:
        """A verdict when the signs prove it and the processes agree."""
        margins = self.design.margins
        tolerate, middle = math.log1p(margins.tolerate), margins.middle
        if self.median > middle:
            return self._proven(
                Verdict.REGRESSION, self.x - tolerate, self.design.alpha, f"slower than {_percent(tolerate)}"
            )
        if self.median < -middle:
            return self._proven(Verdict.IMPROVEMENT, -self.x - tolerate, self.design.alpha, "faster")
        return self._passed()

    def late(self, log_ratios: Sequence[Floats]) -> Decision:
        """The end without a verdict; something faster than proven is at least not slower."""
        passed = self._passed() if self.median < 0 else None
        return passed or _inconclusive(log_ratios, self._open_question())

    def _passed(self) -> Decision | None:
        catch = math.log1p(self.design.margins.catch)
        return self._proven(Verdict.PASS, catch - self.x, self.design.miss, f"not slower by {_percent(catch)}")

    def _proven(self, verdict: Verdict, distances: np.ndarray, level: float, what: str) -> Decision | None:
        """The verdict when so many distances are positive that chance is ruled out, and the processes agree."""
        heads, pairs = int((distances > 0).sum()), len(distances)
        against = self.design.doubt if verdict == Verdict.PASS else self.design.disagreement
        if heads < boundary(self.design.looks, level)[self.number] or not self._agree(distances, against):
            return None
        reason = f"{what}: {heads} of {pairs} pairs over {len(self.processes)} processes"
        return Decision(verdict, effect(self.processes), sign_p(heads, pairs), reason)

    def _agree(self, distances: np.ndarray, level: float) -> bool:
        """Whether the processes' medians are above zero by a t-test: a verdict must not hang on one of them."""
        count = len(self.processes)
        if count < self.design.processes:
            return False
        sizes = np.cumsum([len(process) for process in self.processes])[:-1]
        spread = Spread.of(np.split(distances, sizes))
        return spread.mean > spread.error * t_quantile(1 - level, count - 1)

    def _open_question(self) -> str:
        count = len(self.processes)
        if count < self.design.processes:
            return f"{count} processes a side; a verdict needs {self.design.processes}"
        return f"neither slower nor fast enough is proven after {len(self.x)} pairs over {count} processes"


def first_pairs(processes: Sequence[Floats], pairs: int) -> list[Floats]:
    """The processes' first `pairs` pairs, without empty ones."""
    kept: list[Floats] = []
    for process in processes:
        kept.append(process[:pairs])
        pairs -= len(kept[-1])
    return [process for process in kept if len(process)]


def _inconclusive(log_ratios: Sequence[Floats], reason: str) -> Decision:
    return Decision(Verdict.INCONCLUSIVE, effect(log_ratios), 1.0, reason)


def _exp(log_ratio: float) -> float:
    return math.exp(log_ratio) if log_ratio < 700 else math.inf


def _percent(log_ratio: float) -> str:
    return f"{100 * math.expm1(log_ratio):.3g}%"
