"""One table measured: all variants of a workload in turn, round after round, in a fresh random order.

What changes slowly on a machine (clocks, temperature, neighbours) then meets every variant alike. Only one worker
is active at a time. When all cells have had their rounds, the workers are replaced and everything is timed again, as
often as the suite says: that shows how much processes differ, and every cell shares the cost of starting them.
Workers that would not fit into memory together run one after another, and records say so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from harness.records.record import Record, Status
from harness.records.store import RunFolder
from harness.run import machine
from harness.run.cell import CellRun
from harness.run.former import Identities
from harness.run.interrupts import shielded
from harness.run.ledger import Ledger
from harness.run.plan import Plan, PlannedCell, PlannedTable
from harness.run.progress import Progress
from harness.run.workers import Workers
from harness.suite.cell import CellId


@dataclass(frozen=True)
class OpenRun:
    """A run that is going on: what its tables share."""

    plan: Plan
    identities: Identities
    store: RunFolder
    progress: Progress
    ledger: Ledger
    context: dict[str, Any]
    """What every record carries."""


class TableRun:
    """Runs one planned table and stores each record as its cell ends."""

    def __init__(self, run: OpenRun, table: PlannedTable) -> None:
        self.run = run
        self.table = table
        self.workers = Workers(run.plan, table, run.store.scratch, run.progress)
        self.checkpoint = run.identities.checkpoint(table)
        self.interleaved = table.fits_together(machine.available_memory_bytes(run.plan.facts.device))
        self.context = {**run.context, "interleaved": self.interleaved}
        self.failed: set[str] = set()
        """Ids of cells that have ended without a usable answer."""
        self.answered: set[str] = set()
        """Ids of cells whose answer is there for others to be held against."""
        self.runs = {
            planned.cell.id: CellRun(planned, self.workers, table.sampling, run.progress, run.ledger)
            for planned in table.cells
            if planned.runs
        }

    def measure(self) -> None:
        """Measure every cell that has to be; the others are recorded with their reasons, or as stored before."""
        for planned in self.table.cells:
            if not planned.runs:
                self._append(self._unsupported(planned))
            if planned.former:
                with shielded():
                    self.run.store.adopt(planned.former.folder, planned.former.record, planned.former.measured_in)
        for process in range(self.table.sampling.processes):
            self._one_process(process)

    def _one_process(self, process: int) -> None:
        """Every cell that is yet to be measured in a process of this number, with fresh workers."""
        try:
            for group in self._groups(process):
                if not self.interleaved:
                    self.workers.drop_others(group[0].id.variant)
                self._measure(group, process)
        finally:
            self.workers.close()

    def _groups(self, process: int) -> list[list[CellRun]]:
        """Cells that take turns with each other: those of one workload; without interleaving, each cell alone."""
        needing = [run for run in self.runs.values() if run.needs(process)]
        present = needing + self._answering(needing)
        ordered = [run for run in self.runs.values() if run in present]
        if not self.interleaved:
            references = {one.variant for run in ordered if (one := self._reference(run.id))}
            return [[run] for run in sorted(ordered, key=lambda run: self._alone_order(run, references))]
        workloads = self.table.table.workloads
        groups = ([run for run in ordered if run.planned.workload is workload] for workload in workloads)
        return [group for group in groups if group]

    def _answering(self, needing: Sequence[CellRun]) -> list[CellRun]:
        """Cells that are measured already and whose answer is not there: others have to be held against it."""
        references = {one.id for run in needing if (one := self._reference(run.id))}
        wanted = references - self.answered - {run.id.id for run in needing}
        return [run for run in self.runs.values() if run.id.id in wanted]

    def _alone_order(self, run: CellRun, references: set[Any]) -> tuple[bool, int]:
        """Variant by variant; those that others are held against come first, so that their outputs are there."""
        return run.id.variant not in references, self.table.table.variants.index(run.id.variant)

    def _measure(self, group: list[CellRun], process: int) -> None:
        """Open all cells (the baseline first), give them their turns, then finish those first that others need.

        A cell that is measured already takes no turns: it only answers, because others are held against it.
        """
        taking_turns = [run for run in group if run.needs(process)]
        references: dict[str, CellId | None] = {}
        for run in sorted(group, key=lambda run: run.id.variant != self.table.table.baseline):
            references[run.id.id] = self._reference(run.id)
            run.open(references[run.id.id], process, turns=run in taking_turns)
            self._store_if_failed(run)
        self._take_turns([run for run in taking_turns if run.alive and run.timed], process)
        for run in sorted(group, key=lambda run: references[run.id.id] is not None):
            if run.alive:
                run.finish()
                self._store(run, measured=run in taking_turns)

    def _take_turns(self, runs: list[CellRun], process: int) -> None:
        """Rounds until every cell has had enough; the baseline as long as others need it for their ratios.

        A last round is for all of them: on its inputs, which nobody has seen before, their answers can be compared.
        """
        if not runs:
            return
        order = random.Random(f"{self.run.plan.seed} {process} {msgspec.json.encode(runs[0].id.workload)!r}")
        baseline = next((run for run in runs if run.id.variant == self.table.table.baseline), None)
        number = 0
        while turn := _wanting(runs, baseline):
            self._round(order.sample(turn, len(turn)), number)
            number += 1
        self._round(order.sample(runs, len(runs)), number, closing=True)

    def _round(self, runs: Sequence[CellRun], number: int, closing: bool = False) -> None:
        """A turn of each that has not failed, in this order."""
        for position, run in enumerate(runs):
            if run.alive:
                run.take_turn(number, position, closing=closing)
                self._store_if_failed(run)

    def _reference(self, cell: CellId) -> CellId | None:
        """The cell that this one is held against, among those that run and have not failed yet."""
        return self.table.reference(cell, self.failed)

    # --- storing ----------------------------------------------------------------------------------

    def _store_if_failed(self, run: CellRun) -> None:
        if not run.alive:
            self._store(run)

    def _store(self, run: CellRun, measured: bool = True) -> None:
        """Put what a cell has come to on disk before anything else happens; Ctrl-C waits for it."""
        self.answered.add(run.id.id)
        if not measured or not run.planned.measured:
            self._note_if_failed(run)
            return
        with shielded():
            documents = run.result.documents if run.alive and run.result else None
            samples = self.run.store.write_samples(run.id, documents) if documents is not None else None
            record = run.record(self.checkpoint, self.context, samples)
            self._append(replace(record, identity=self.run.identities.of(self.table, run.planned)))

    def _note_if_failed(self, run: CellRun) -> None:
        """A cell that only had to answer and could not: its record stays, nothing is held against it."""
        if run.failure:
            self.failed.add(run.id.id)
            self.run.progress.note(f"no answer from {run.id.id}: {'; '.join(run.failure.reasons)}")

    def _append(self, record: Record) -> None:
        self.run.store.append(record)
        if record.status not in (Status.PASSED, Status.UNSUPPORTED):
            self.failed.add(record.cell)
            self.run.progress.note(f"{record.status.value}: {record.cell}: {'; '.join(record.reasons)}")

    def _unsupported(self, planned: PlannedCell) -> Record:
        return Record(
            cell=planned.cell.id,
            table=planned.cell.table,
            variant=planned.cell.variant,
            workload=planned.cell.workload,
            status=Status.UNSUPPORTED,
            reasons=planned.reasons,
            checkpoint=self.checkpoint,
            context=self.context,
        )


def _wanting(runs: Sequence[CellRun], baseline: CellRun | None) -> list[CellRun]:
    """Who takes part in the next round; alone, a baseline goes by its own interval."""
    others = [run for run in runs if run is not baseline and run.alive]
    wanting = [run for run in others if run.wants_turn(baseline)]
    if baseline is None or not baseline.alive or not (wanting if others else baseline.wants_turn(None)):
        return wanting
    return [baseline, *wanting]
