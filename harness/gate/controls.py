"""Controls: questions whose answer is known, put through the same test in the same visits as all others.

One cell of the working tree against itself has to pass; against itself with a slow-down planted (by doing that much
more work) it has to be called slower. Where either is answered wrongly, the machine was unfit to judge times.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from harness.contract.planted import Planted
from harness.gate.lane import Lane
from harness.gate.live_judge import LiveJudge
from harness.gate.live_side import LiveSide, TableSide
from harness.gate.questions import Pair, Question, is_timed
from harness.gate.rules import Rules, margins
from harness.gate.verdict import Control, Verdict
from harness.run.plan import PlannedCell
from harness.suite.schema import Relative

PLANTED = 1.25
"""The planted slow-down over the one that has to be caught: calibrating the extra work is off by some percent."""


@dataclass(frozen=True)
class ControlLane:
    """A control while it is measured."""

    name: str
    expected: Verdict
    side: TableSide
    """The workers that exist for the control alone."""
    lane: Lane
    metric: str
    rule: Relative

    def decided(self, judge: LiveJudge) -> bool:
        """Whether more pairs would change nothing."""
        return not self.lane.alive or judge.decision(self.lane, self._question()) is not None

    def result(self, judge: LiveJudge) -> Control:
        """What the gate has said, when nobody measures on."""
        question = self._question()
        if not self.lane.alive:
            failure = self.lane.base.run.failure or self.lane.new.run.failure
            reasons = failure.reasons if failure else []
            return Control(self.name, self.expected, question.finding(Verdict.BROKEN, timed=True, reasons=reasons))
        return Control(self.name, self.expected, judge.ruled(self.lane, question))

    def _question(self) -> Question:
        base, new = (seat.run.record({}, {}, None) for seat in (self.lane.base, self.lane.new))
        return Question(Pair(base, new), self.metric, self.rule)


def controls_of(new: LiveSide, rules: Rules, seed: int) -> list[ControlLane]:
    """The two controls on the quickest cell that a rule judges by a clock; none when there is no such cell."""
    candidates = [
        (planned.seconds, planned, table, *found)
        for table in new.plan.tables
        for planned in table.cells
        if planned.runs and planned.is_timed and (found := _clock_rule(planned, rules))
    ]
    if not candidates:
        return []
    _, planned, table, metric, rule = min(candidates, key=lambda one: one[0])
    slower = PLANTED * margins(rule)[1]
    wanted = [
        ("the same code twice", Verdict.PASS, None),
        (f"{slower:.1%} more work", Verdict.REGRESSION, Planted(slower=slower)),
    ]
    made = []
    for name, expected, planted in wanted:
        side = TableSide.of(new, table, planted)
        beside = new.tables[table.name].another_seat(planned.cell.id)
        lane = Lane(beside, side.seat(planned.cell.id), Random(f"{seed} {name}"))
        made.append(ControlLane(name, expected, side, lane, metric, rule))
    return made


def _clock_rule(planned: PlannedCell, rules: Rules) -> tuple[str, Relative] | None:
    """The first metric of a cell with a relative limit on its time, and the rule."""
    for metric in rules.metrics(planned.cell):
        for rule in rules.of(planned.cell, metric):
            if isinstance(rule, Relative) and is_timed(metric) and not rule.across:
                return metric, rule
    return None
