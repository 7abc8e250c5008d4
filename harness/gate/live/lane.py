"""One cell measured in two workers that take turns in random pairs, visit after visit, until it is decided.

Which of the two goes first is a coin's choice, so that without a difference every pair is a fair coin, whatever
drifts meanwhile. A visit takes a few pairs and goes on to the next cell: a burst of noise then costs no cell all its
pairs, and each visit finds freshly started workers.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from harness.gate.live.side import Seat
from harness.gate.statistics.sequential import VISIT_SIZES, pairs_per_visit, turn_value
from harness.run.rounds import Turn

TURN_SECONDS = 0.01
"""A turn takes so long at least, and hardly longer: the nearer two turns are, the more alike is what disturbs them.

Asking for a turn costs some milliseconds, so much shorter ones are mostly asking. A longer call is a turn of its own; a
slow-down of every other call then shows in every other pair.
"""

SPACED_SECONDS = 0.02
"""A turn shorter than this is never taken by the worker that took the one before.

Just after a turn of its own a worker finds its data in the caches and is up to 9% faster: where a coin says who goes
first, that is half of what pairs differ by. In longer turns it does not show.
"""

MOST_SAMPLES = 50
"""Repetitions of a turn, at most."""


@dataclass(frozen=True)
class Pair:
    """Two turns next to each other."""

    base: Turn
    new: Turn

    @property
    def disturbed(self) -> bool:
        """Whether the machine's counters speak against either turn."""
        return any(turn.block.conditions.disturbances for turn in (self.base, self.new))

    def log_ratio(self, metric: str) -> float:
        """log(new / base) of a metric; NaN where there is no ratio: a value is 0 or missing."""
        base, new = (turn.samples.get(metric) or [0.0] for turn in (self.base, self.new))
        values = turn_value(base), turn_value(new)
        return math.log(values[1] / values[0]) if min(values) > 0 else math.nan


@dataclass
class Lane:
    """A cell in a base worker and in a new one."""

    base: Seat
    new: Seat
    draw: random.Random
    visits: list[list[Pair]] = field(default_factory=list)
    samples: int = 0
    """Repetitions of a turn; 0 until the first visit has seen how long one takes."""
    pairs: int = 0
    """Pairs of the first visit, which follow from it."""
    spaced: bool = False
    """Whether turns are so short that no two of one side may follow each other."""

    def __post_init__(self) -> None:
        self._last = self.new

    @property
    def seats(self) -> tuple[Seat, Seat]:
        """Both sides."""
        return self.base, self.new

    @property
    def alive(self) -> bool:
        """Whether both sides may still end well."""
        return self.base.run.alive and self.new.run.alive

    @property
    def seconds(self) -> float:
        """Time spent in turns, both sides, those that did not count included."""
        return sum(turn.block.seconds for seat in self.seats for turn in seat.run.turns)

    def has(self, metric: str) -> bool:
        """Whether both sides measure a metric in their turns."""
        pairs = [pair for visit in self.visits for pair in visit]
        return bool(pairs) and all(metric in turn.samples for pair in pairs for turn in (pair.base, pair.new))

    def visit(self, number: int, once: bool = False) -> None:
        """Set up and warm up both sides, then a visit's pairs in random order, or a single one.

        Pairs that were disturbed are taken again, unless most were: then the machine is like that at this hour.
        """
        opened = self._shuffled()
        for seat in opened:
            seat.open(number)
        self._last = opened[-1]
        if not self.samples:
            self._measure_out()
        count = 1 if once else self.pairs * VISIT_SIZES[len(self.visits)]
        pairs = self._pairs(0, count)
        disturbed = sum(pair.disturbed for pair in pairs)
        if 0 < disturbed <= count // 2:
            pairs = [pair for pair in pairs if not pair.disturbed] + self._pairs(count, disturbed)
        self.visits.append(pairs)

    def log_ratios(self, metric: str, lower_is_better: bool) -> list[list[float]]:
        """How much slower the new side is, visit by visit: log(new / base), or its negative where more is better."""
        sign = 1.0 if lower_is_better else -1.0
        return [[sign * pair.log_ratio(metric) for pair in visit] for visit in self.visits if visit]

    def _pairs(self, first: int, count: int) -> list[Pair]:
        """So many pairs, fewer when a side fails; a lone survivor takes its turns all the same, for its record."""
        found: list[Pair] = []
        for number in range(first, first + count):
            order = self._shuffled()
            if self.spaced and order[0] is self._last:
                order[1].run.space_turn(number, self.samples)
            for position, seat in enumerate(order):
                seat.run.take_turn(number, position, self.samples)
            self._last = order[1]
            if self.alive:
                found.append(Pair(self.base.run.turns[-1], self.new.run.turns[-1]))
        return found

    def _measure_out(self) -> None:
        """Repetitions of a turn and pairs of the first visit, the same on both sides."""
        seconds = max(seat.run.repetition_seconds for seat in self.seats)
        needed = math.ceil(TURN_SECONDS / seconds) if seconds else 1
        self.samples = min(needed, MOST_SAMPLES)
        self.pairs = pairs_per_visit(self.samples * seconds)
        self.spaced = self.samples * seconds < SPACED_SECONDS

    def _shuffled(self) -> list[Seat]:
        return self.draw.sample(self.seats, 2)
