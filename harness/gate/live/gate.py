"""The live gate: the working tree and a git ref measured side by side, in random pairs, on this machine, now.

Both sides are always measured. One evaluation of every cell on each side answers what needs no clock; the questions
about ratios are settled by visits: a few pairs of each undecided cell, then fresh workers for all, until each question
is decided or its time is spent. Control cells whose answer is known go through the same test beside them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

from msgspec.structs import replace

from harness.gate.compare import compare
from harness.gate.live.controls import ControlLane, controls_of
from harness.gate.live.judge import LiveJudge
from harness.gate.live.lane import Lane
from harness.gate.live.side import LiveSide, OtherProtocolError, VersionWorkers, at_once
from harness.gate.live.stage import Stage
from harness.gate.questions import Judge, Question
from harness.gate.rules import Rules
from harness.gate.statistics.sequential import VISIT_SIZES
from harness.gate.verdict import STATUS, Finding, GateReport, Verdict
from harness.run import machine
from harness.run.plan import PlannedTable
from harness.suite.cell import CellId
from harness.suite.schema import Gate, Relative
from harness.suite.variant import Variant


@dataclass
class LiveGate:
    """Two sides and the rules that they are judged by; `report` measures and judges."""

    base: LiveSide
    new: LiveSide
    rules: Callable[[], Rules]
    """The suite's rules, fresh every time: looking ahead must leave no trace in what they have met."""
    gate: Gate
    narrowed: bool = False
    controlled: bool = True
    """False where the whole gate is the control: its self-test."""
    lanes: dict[str, Lane] = field(default_factory=dict)
    """Cell id -> the lane that its turns were taken in."""
    controls: list[ControlLane] = field(default_factory=list)
    stage: Stage | None = None
    """Told how far the gate is."""

    def report(self) -> GateReport:
        """Measure until every question is answered or out of time."""
        self.controls = controls_of(self.new, self.rules(), self.new.plan.seed) if self.controlled else []
        try:
            self._require_workers()
            self.evaluate()
        except OtherProtocolError as error:
            return self._incomparable(str(error))
        judge, asked = self.ask()
        visits = self.settle(judge, asked)
        found = self._compared(judge.judge)
        controls = [control.result(judge) for control in self.controls]
        return replace(found, controls=controls, notes=[*found.notes, *self._notes(visits)])

    def close(self) -> None:
        """End all workers."""
        self.base.close()
        self.new.close()
        for control in self.controls:
            control.side.workers.close()

    def _require_workers(self) -> None:
        if not (self.base.version.root / "harness" / "run" / "worker.py").is_file():
            raise OtherProtocolError(f"{self.base.version.name} has no worker processes that could be asked")

    # --- one evaluation -----------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Every cell once on both sides, its answer checked; cells with a ratio to judge take their first pairs."""
        rules = self.rules()
        for table in self.new.plan.tables:
            lanes = [self._lane(table.name, cell) for cell in _order(table) if _is_judged(table, cell, rules)]
            lanes += [control.lane for control in self.controls if control.side.table.name == table.name]
            for crew in self._crews(table, lanes):
                with self._working(crew):
                    for lane in crew:
                        self._evaluate(lane, _has_ratio(lane, rules))
                        self._step()

    def _evaluate(self, lane: Lane, in_turns: bool) -> None:
        if not lane.new.run.planned.is_timed:
            self._at_once([lane.base.evaluate, lane.new.evaluate])
            return
        lane.visit(0, once=not in_turns)
        lane.base.run.finish()
        lane.new.run.finish()
        if all(lane is not control.lane for control in self.controls):
            self.lanes[lane.new.run.id.id] = lane

    def _at_once(self, acts: Sequence[Callable[[], None]]) -> None:
        """Without a clock both sides may work at the same time, where each has processors of its own."""
        together = machine.cpu_count() >= len(acts) * self.new.plan.threads
        at_once(acts, len(acts) if together else 1, self.close)

    # --- questions about ratios ---------------------------------------------------------------------

    def ask(self) -> tuple[LiveJudge, list[Question]]:
        """Every relative question, and the judge with each one's share of the chance of a false alarm."""
        asked: list[Question] = []
        shares = [self.gate.alpha]

        def note(question: Question, share: float) -> Finding:
            asked.append(question)
            shares.append(share)
            return question.finding(Verdict.INCONCLUSIVE)

        self._compared(note)
        return LiveJudge(self.lanes, shares[-1], self.gate.budget), asked

    def settle(self, judge: LiveJudge, asked: Sequence[Question]) -> int:
        """Visits to all undecided cells until none is left or their time is spent; returns how many there were."""
        for visit in range(1, len(VISIT_SIZES)):
            cells = dict.fromkeys(question.pair.new.cell for question in asked if not judge.decided(question))
            lanes = [self.lanes[cell] for cell in cells]
            lanes += [control.lane for control in self.controls if not control.decided(judge)]
            lanes = [lane for lane in lanes if lane.seconds < self.gate.budget]
            if not lanes:
                return visit
            self._begin(f"visit {visit + 1}, {len(lanes)} undecided", len(lanes))
            self._visit_all(visit, lanes)
        return len(VISIT_SIZES)

    def _visit_all(self, visit: int, lanes: list[Lane]) -> None:
        for table in self.new.plan.tables:
            own = [lane for lane in lanes if lane.new.run.id.table == table.name]
            self._draw(f"{table.name} {visit}").shuffle(own)
            for crew in self._crews(table, own):
                with self._working(crew):
                    for lane in crew:
                        lane.visit(visit)
                        self._step()

    # --- what both have in common -------------------------------------------------------------------

    def _crews(self, table: PlannedTable, lanes: Sequence[Lane]) -> list[list[Lane]]:
        """Lanes whose workers are alive at the same time: all of a table where memory allows, else one variant's."""
        if not lanes:
            return []
        if 2 * table.bytes_together <= 0.9 * machine.available_memory_bytes(self.new.plan.facts.device):
            return [list(lanes)]
        variants = dict.fromkeys(lane.new.run.id.variant for lane in lanes)
        return [[lane for lane in lanes if lane.new.run.id.variant == variant] for variant in variants]

    @contextmanager
    def _working(self, lanes: Sequence[Lane]) -> Iterator[None]:
        """The workers of these lanes, all started at once, for nothing is measured yet, and ended afterwards."""
        crews: dict[VersionWorkers, list[Variant]] = {}
        for seat in (seat for lane in lanes for seat in lane.seats if seat.run.alive):
            crews.setdefault(seat.side.workers, []).append(seat.run.id.variant)
        try:
            if self.stage:
                self.stage.say("starting workers")
            with self.new.ledger.spending("loading"):
                self._start(crews)
            yield
        finally:
            for workers in crews:
                workers.close()

    def _start(self, crews: Mapping[VersionWorkers, Sequence[Variant]]) -> None:
        """Both sides together, because who starts later is faster; see `harness.run.nursery`."""
        for workers in crews:
            workers.open()
        starts = zip_longest(*(workers.starts(variants) for workers, variants in crews.items()))
        beside = [start for sides in starts for start in sides if start]
        at_once(beside, max(machine.cpu_count(), len(crews)), self.close)

    def _lane(self, table: str, cell: CellId) -> Lane:
        base, new = (side.tables[table].seat(cell.id) for side in (self.base, self.new))
        return Lane(base, new, self._draw(cell.id))

    def _step(self) -> None:
        if self.stage:
            self.stage.step()

    def _begin(self, name: str, steps: int) -> None:
        if self.stage:
            self.stage.name = name
            self.stage.expect(steps)

    def _draw(self, name: str) -> random.Random:
        return random.Random(f"{self.new.plan.seed} {name}")

    def _compared(self, judge: Judge) -> GateReport:
        base, new = self.base.measured(self.narrowed), self.new.measured(self.narrowed)
        return compare(base, new, self.rules(), self.new.plan.suite.name, "ref", judge)

    def _incomparable(self, reason: str) -> GateReport:
        """Nothing can be said about a version that cannot be measured beside this one."""
        base, new = self.base.measured(self.narrowed).side, self.new.measured(self.narrowed).side
        cells = [planned.cell.id for planned in self.new.plan.cells if planned.runs]
        findings = [
            Finding(cell, STATUS, "measured by the same protocol", Verdict.INCOMPARABLE, reasons=[reason])
            for cell in cells
        ]
        return GateReport(self.new.plan.suite.name, base, new, "ref", findings)

    def _notes(self, visits: int) -> list[str]:
        spent, rules = self.new.ledger.seconds, self.rules()
        free = [one.cell for table in self.new.plan.tables for one in table.cells if one.runs
                and not _is_judged(table, one.cell, rules)]  # fmt: skip
        turns = sum(lane.seconds for lane in [*self.lanes.values(), *(control.lane for control in self.controls)])
        return [
            *([f"not measured, for want of a rule: {len(free)} cells"] if free else []),
            f"{visits} visits; {turns:.0f} s of timed turns, {spent['loading']:.0f} s starting workers, "
            f"{spent['setup'] + spent['warmup'] + spent['checks']:.0f} s setting up and checking",
        ]


def _order(table: PlannedTable) -> list[CellId]:
    """Cells that others are held against come before them."""
    running = [planned for planned in table.cells if planned.runs]
    return [one.cell for one in sorted(running, key=lambda one: table.reference(one.cell) is not None)]


def _is_judged(table: PlannedTable, cell: CellId, rules: Rules) -> bool:
    """Whether a rule may judge a cell, or another cell that is held against it: the rest need not be measured."""
    held = (one.cell for one in table.cells if one.runs and table.reference(one.cell) == cell)
    return bool(rules.metrics(cell)) or any(rules.metrics(one) for one in held)


def _has_ratio(lane: Lane, rules: Rules) -> bool:
    cell = lane.new.run.id
    return any(isinstance(rule, Relative) for metric in rules.metrics(cell) for rule in rules.of(cell, metric))
