"""One table measured: all variants of a workload in turn, round after round, in a fresh random order.

What changes slowly on a machine (clocks, temperature, neighbours) then meets every variant alike. Only one worker
is active at a time. Workers that would not fit into memory together run one after another, and records say so.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
from msgspec.structs import replace

from harness.records.record import Record, Status
from harness.records.store import RunFolder
from harness.run import machine
from harness.run.cell import CellRun
from harness.run.former import Identities
from harness.run.interrupts import shielded
from harness.run.plan import Plan, PlannedCell, PlannedTable
from harness.run.progress import Progress
from harness.run.workers import Workers
from harness.suite.cell import CellId


class TableRun:
    """Runs one planned table and stores each record as its cell ends."""

    def __init__(
        self,
        plan: Plan,
        table: PlannedTable,
        identities: Identities,
        store: RunFolder,
        progress: Progress,
        context: dict[str, Any],
    ) -> None:
        self.plan = plan
        self.table = table
        self.store = store
        self.progress = progress
        self.workers = Workers(plan, table, store.scratch, progress)
        self.identities = identities
        self.checkpoint = identities.checkpoint(table)
        self.interleaved = table.fits_together(machine.available_memory_bytes(plan.facts.device))
        self.context = {**context, "interleaved": self.interleaved}
        self.failed: set[str] = set()
        """Ids of cells that have ended without a usable answer."""

    def run(self) -> None:
        """Measure every cell that has to be; the others are recorded with their reasons, or as stored before."""
        try:
            for planned in self.table.cells:
                if not planned.runs:
                    self._append(self._unsupported(planned))
                if planned.former:
                    with shielded():
                        self.store.adopt(planned.former.folder, planned.former.record, planned.former.measured_in)
            for group in self._groups():
                if not self.interleaved:
                    self.workers.drop_others(group[0].cell.variant)
                self._measure(group)
        finally:
            self.workers.close()

    def _groups(self) -> list[list[PlannedCell]]:
        """Cells that take turns with each other: those of one workload; without interleaving, each cell alone."""
        running = self.table.working
        if not self.interleaved:
            return [[planned] for planned in sorted(running, key=self._alone_order)]
        groups = ([one for one in running if one.workload is workload] for workload in self.table.table.workloads)
        return [group for group in groups if group]

    def _alone_order(self, planned: PlannedCell) -> tuple[bool, int]:
        """Variant by variant; those that others are held against come first, so that their outputs are there."""
        variant = planned.cell.variant
        references = [self._reference(one.cell) for one in self.table.working]
        is_reference = any(reference is not None and reference.variant == variant for reference in references)
        return not is_reference, self.table.table.variants.index(variant)

    def _measure(self, group: list[PlannedCell]) -> None:
        """Open all cells (the baseline first), give them their turns, then finish those first that others need.

        A cell whose stored record is good takes no turns: it only answers, because others are held against it.
        """
        runs = [CellRun(planned, self.workers, self.table.sampling, self.progress) for planned in group]
        references: dict[str, CellId | None] = {}
        for run in sorted(runs, key=lambda run: run.id.variant != self.table.table.baseline):
            references[run.id.id] = self._reference(run.id)
            run.open(references[run.id.id])
            self._store_if_failed(run)
        self._take_turns([run for run in runs if run.alive and run.timed and run.planned.measured])
        for run in sorted(runs, key=lambda run: references[run.id.id] is not None):
            if run.alive:
                run.finish()
                self._store(run)

    def _take_turns(self, runs: list[CellRun]) -> None:
        if not runs:
            return
        order = random.Random(f"{self.plan.seed} {msgspec.json.encode(runs[0].id.workload)!r}")
        for number in range(self.table.sampling.rounds):
            turn = [run for run in runs if run.alive]
            order.shuffle(turn)
            for position, run in enumerate(turn):
                run.take_turn(number, position)
                self._store_if_failed(run)

    def _reference(self, cell: CellId) -> CellId | None:
        """The cell that this one is held against, among those that run and have not failed yet."""
        return self.table.reference(cell, self.failed)

    # --- storing ----------------------------------------------------------------------------------

    def _store_if_failed(self, run: CellRun) -> None:
        if not run.alive:
            self._store(run)

    def _store(self, run: CellRun) -> None:
        """Put a cell's end on disk before anything else happens; Ctrl-C waits for it."""
        if not run.planned.measured:
            self._note_if_failed(run)
            return
        with shielded():
            documents = run.result.documents if run.result else None
            samples = self.store.write_samples(run.id, documents) if documents is not None else None
            record = run.record(self.checkpoint, self.context, samples)
            self._append(replace(record, identity=self.identities.of(self.table, run.planned)))

    def _note_if_failed(self, run: CellRun) -> None:
        """A cell that only had to answer and could not: its record stays, nothing is held against it."""
        if run.failure:
            self.failed.add(run.id.id)
            self.progress.note(f"no answer from {run.id.id}: {'; '.join(run.failure.reasons)}")

    def _append(self, record: Record) -> None:
        self.store.append(record)
        if record.status not in (Status.PASSED, Status.UNSUPPORTED):
            self.failed.add(record.cell)
            self.progress.note(f"{record.status.value}: {record.cell}: {'; '.join(record.reasons)}")

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
