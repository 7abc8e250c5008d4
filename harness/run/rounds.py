"""When a cell has been timed enough: rounds go on until its interval is tight, or its time is spent.

More rounds in one process only narrow what that process can tell. How much processes differ is seen by restarting
them, so each process gets an equal share of rounds, seconds and precision.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records.metrics import METRICS
from harness.records.record import Block
from harness.records.statistics import half_width
from harness.suite.schema import Sampling, fraction

FEWEST = 5
"""Rounds of a process from which an interval is believed: with three or four, small ones come about by luck."""


@dataclass(frozen=True)
class Turn:
    """A block, and what was measured in it."""

    block: Block
    samples: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Quota:
    """What one process of a cell may take."""

    least: int
    """Rounds that it takes in any case."""
    most: float
    """Rounds after which it ends in any case."""
    seconds: float
    """Timed and warm-up repetitions after which no further round starts."""
    reach: float
    """Half a 95% interval of a log time or log ratio that is tight enough.

    The mean of n processes is known n**0.5 times better than each of them, so each may be that much wider."""
    warmup_limit: int
    """Warm-up repetitions, at most: half of the repetitions that are sure to be timed."""

    @classmethod
    def of(cls, sampling: Sampling) -> Quota:
        """A process's share of the whole cell's sampling."""
        most = math.inf if sampling.max_rounds is None else math.ceil(sampling.max_rounds / sampling.processes)
        least = min(most, max(math.ceil(sampling.rounds / sampling.processes), _rounds_for_warmup(sampling)))
        reach = math.log1p(fraction(sampling.precision)) * math.sqrt(sampling.processes)
        seconds = sampling.budget / sampling.processes
        return cls(int(least), most, seconds, reach, int(least) * sampling.samples // 2)

    def enough(self, turns: Sequence[Turn], spent: float, baseline: Sequence[Turn]) -> bool:
        """Whether a process that took these turns and seconds needs but its closing one.

        `baseline` took its turns beside it, if any.
        """
        if len(turns) + 1 < self.least:
            return False
        if len(turns) + 1 >= self.most or spent >= self.seconds:
            return True
        good, beside = undisturbed(turns), undisturbed(baseline)
        return len(good) >= max(self.least, FEWEST) and precise(good, beside, self.reach)

    def kept(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns whose samples count: undisturbed ones where there are enough of them, else all."""
        good = undisturbed(turns)
        return good if len(good) >= self.least else list(turns)


def _rounds_for_warmup(sampling: Sampling) -> int:
    """Rounds of a process that are worth its warm-up: at least twice as many repetitions."""
    return math.ceil(2 * sampling.warmup / sampling.samples)


def undisturbed(turns: Sequence[Turn]) -> list[Turn]:
    """The turns against whose samples nothing speaks."""
    return [turn for turn in turns if not turn.block.conditions.disturbances]


def precise(turns: Sequence[Turn], baseline: Sequence[Turn], reach: float) -> bool:
    """Whether every time of these turns (or its ratio to the baseline's in the same round) is known within `reach`."""
    return all(half_width(_logs(name, turns, baseline)) <= reach for name in _times(turns))


def _times(turns: Sequence[Turn]) -> list[str]:
    return [name for name in (turns[0].samples if turns else ()) if name in METRICS and METRICS[name].unit == "ms"]


def _logs(name: str, turns: Sequence[Turn], baseline: Sequence[Turn]) -> list[float]:
    own, base = _medians(name, turns), _medians(name, baseline)
    if not base:
        return [math.log(value) for value in own.values()]
    return [math.log(value / base[number]) for number, value in own.items() if number in base]


def _medians(name: str, turns: Sequence[Turn]) -> dict[int, float]:
    """Round -> median of its samples."""
    taken = {turn.block.round: turn.samples.get(name) for turn in turns}
    medians = {number: statistics.median(samples) for number, samples in taken.items() if samples}
    return {number: median for number, median in medians.items() if median > 0}
