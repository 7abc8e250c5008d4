"""Controls: questions whose answer is known, put through the same test in the same visits as all others.

One cell of the working tree against itself has to pass; against itself with a slow-down planted (by doing that much
more work) it has to be called slower. Where either is answered wrongly, the machine was unfit to judge times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from harness.contract.planted import Planted
from harness.gate.live.judge import LiveJudge
from harness.gate.live.lane import Lane
from harness.gate.live.side import LiveSide, TableSide
from harness.gate.questions import Pair, Question, is_timed
from harness.gate.rules import Rules, describe, margins
from harness.gate.verdict import Control, Finding, Verdict
from harness.run.plan import PlannedCell
from harness.suite.schema import Relative

PLANTED = 1.25
"""The planted slow-down over the one that has to be caught, which a GPU's extra work meets to some percent only."""


@dataclass(frozen=True)
class ControlLane:
    """A control while it is measured."""

    name: str
    expected: Verdict
    side: TableSide
    """The workers that exist for the control alone."""
    lane: Lane
    rules: Mapping[str, Relative]
    """Times that are judged in such a cell, and by which rule; the first one that the cell really measures counts."""

    def decided(self, judge: LiveJudge) -> bool:
        """Whether more pairs would change nothing."""
        question = self._question()
        return question is None or judge.settled(self.lane, question)

    def result(self, judge: LiveJudge) -> Control:
        """What the gate has said, when nobody measures on."""
        question = self._question()
        finding = judge.ruled(self.lane, question) if question else self._failed()
        return Control(self.name, self.expected, finding)

    def _question(self) -> Question | None:
        """None for a cell that has failed, or that measures none of these times."""
        metric = next((metric for metric in self.rules if self.lane.has(metric)), None)
        base, new = (seat.run for seat in self.lane.seats)
        if metric is None or not self.lane.alive or base.result is None or new.result is None:
            return None
        records = (run.record({}, {}, None) for run in (base, new))
        pair = Pair(*records)
        return Question(pair, metric, self.rules[metric]) if metric in pair.new.metrics else None

    def _failed(self) -> Finding:
        runs = [seat.run for seat in self.lane.seats]
        reasons = [reason for run in runs if run.failure for reason in run.failure.reasons]
        reasons += [reason for run in runs if run.result for reason in run.result.reasons]
        metric, rule = next(iter(self.rules.items()))
        return Finding(runs[1].id.id, metric, describe(rule), Verdict.BROKEN, timed=True, reasons=reasons)


def controls_of(new: LiveSide, rules: Rules, seed: int) -> list[ControlLane]:
    """The two controls on the quickest cell that a rule judges by a clock; none when there is no such cell."""
    candidates = [
        (planned.seconds, planned, table, found)
        for table in new.plan.tables
        for planned in table.cells
        if planned.runs and planned.is_timed and (found := _clock_rules(planned, rules))
    ]
    if not candidates:
        return []
    _, planned, table, found = min(candidates, key=lambda one: one[0])
    slower = PLANTED * max(margins(rule)[1] for rule in found.values())
    wanted = [
        ("the same code twice", Verdict.PASS, None),
        (f"{slower:.1%} more work", Verdict.REGRESSION, Planted(slower=slower)),
    ]
    made = []
    for name, expected, planted in wanted:
        side = TableSide.of(new, table, planted)
        beside = new.tables[table.name].another_seat(planned.cell.id)
        lane = Lane(beside, side.seat(planned.cell.id), Random(f"{seed} {name}"))
        made.append(ControlLane(name, expected, side, lane, found))
    return made


def _clock_rules(planned: PlannedCell, rules: Rules) -> dict[str, Relative]:
    """Every time with a relative limit in such a cell, whether or not it will have it."""
    return {
        metric: rule
        for metric in rules.metrics(planned.cell)
        for rule in rules.of(planned.cell, metric)
        if isinstance(rule, Relative) and is_timed(metric)
    }
