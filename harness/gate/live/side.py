"""One side of a live gate: a code version with its own workers, answers, plugins and records."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from harness.contract.planted import Planted
from harness.gate.measured import Measured
from harness.gate.statistics.sequential import FEWEST_PAIRS
from harness.gate.verdict import Side
from harness.records.record import Record, Status
from harness.records.store import TableHeader
from harness.run import protocol
from harness.run.cell import CellRun
from harness.run.client import CellError, Listener, WorkerClient, worker_environment
from harness.run.former import Identities
from harness.run.ledger import Ledger
from harness.run.nursery import Nursery
from harness.run.plan import Plan, PlannedCell, PlannedTable
from harness.run.progress import Progress
from harness.run.workers import Workers
from harness.suite.cell import CellId
from harness.suite.schema import Sampling
from harness.suite.variant import Variant


@dataclass(frozen=True)
class Version:
    """A code version: where its packages, its plugins and its users' modules are."""

    name: str
    """A git ref, or `working tree`."""
    root: Path
    """Folder of the package `harness`."""
    checkout: Path
    """Root of the working tree that is under test."""
    plugins: list[str]
    python_path: list[str]
    is_base: bool
    forks: bool = True
    """Whether its workers are forked where the system can; they are on both sides or on none."""


class OtherProtocolError(Exception):
    """A version whose workers speak otherwise, or not at all: it cannot be measured beside this one."""


class VersionWorkers(Workers):
    """The workers of one table in one version. `planted` is put into all of them."""

    def __init__(
        self, version: Version, plan: Plan, table: PlannedTable, scratch: Path, progress: Progress,
        planted: Planted | None = None,
    ) -> None:  # fmt: skip
        super().__init__(plan, table, scratch, progress)
        self.version = version
        self.planted = planted
        self._nursery: Nursery | None = None
        self._nurseries = itertools.count(1)
        self._opening = threading.Lock()

    def open(self) -> None:
        """Start what its workers are forked from; a failure is left to the first of them."""
        nursery = self._open_nursery()
        if nursery:
            with suppress(OSError):
                nursery.open()

    def starts(self, variants: Iterable[Variant]) -> list[Callable[[], None]]:
        """What starts each of them; failures are left to the cell that asks next."""

        def one(variant: Variant) -> None:
            with suppress(CellError):
                self.get(variant, self.table.sampling.timeout, _unheard)

        return [partial(one, variant) for variant in dict.fromkeys(variants)]

    def get(self, variant: Variant, seconds: float, listen: Listener) -> WorkerClient:
        """See `Workers.get`. Raises OtherProtocolError as well."""
        client = super().get(variant, seconds, listen)
        ready = client.ready
        if ready is not None and ready.protocol != protocol.PROTOCOL:
            raise OtherProtocolError(
                f"its workers speak protocol {ready.protocol}, those of the working tree {protocol.PROTOCOL}"
            )
        return client

    def _client(self, variant: Variant, log: Path) -> WorkerClient:
        setup, path = self._setup(variant), self.version.python_path
        environment = self.table.environments.get(variant, {})
        limit, tick = self.table.sampling.timeout, self.progress.tick
        return WorkerClient(setup, log, limit, path, tick, environment, self._open_nursery())

    def close(self) -> None:
        """End all workers, and what has forked them: the next ones get a layout of memory of their own."""
        super().close()
        nursery, self._nursery = self._nursery, None
        if nursery:
            nursery.close()

    def _open_nursery(self) -> Nursery | None:
        root = self.version.root
        with self._opening:
            if self._nursery is None and self.version.forks and Nursery.is_possible(root):
                log = self.scratch / f"{self.table.name}-nursery-{next(self._nurseries)}.log"
                self._nursery = Nursery(worker_environment(root, self.version.python_path), log)
            return self._nursery

    def _setup(self, variant: Variant) -> protocol.Load:
        """Both versions get the same weights and settings; code and plugins are their own."""
        root, plugins = str(self.version.root), self.version.plugins
        return replace(super()._setup(variant), root=root, plugins=plugins, planted=self.planted)

    def _cannot_load(self, variant: Variant, error: CellError) -> Exception:
        """An option that only the new version has is nothing that the former one could be blamed for."""
        if error.usage and self.version.is_base:
            error = CellError(Status.UNSUPPORTED, error.reasons, answered=True)
        return super()._cannot_load(variant, error)


@dataclass
class TableSide:
    """One table in one version: its workers, and a cell run for each cell."""

    version: Version
    table: PlannedTable
    workers: VersionWorkers
    runs: dict[str, CellRun]

    @classmethod
    def of(cls, live: LiveSide, table: PlannedTable, planted: Planted | None = None) -> TableSide:
        """Ready to be measured; another call makes another, with workers of its own."""
        workers = VersionWorkers(live.version, live.plan, table, live.new_scratch(), live.progress, planted)
        made = cls(live.version, table, workers, {})
        made.runs = {one.cell.id: made.new_run(one, live.progress, live.ledger) for one in table.cells if one.runs}
        return made

    def new_run(self, planned: PlannedCell, progress: Progress, ledger: Ledger) -> CellRun:
        """A cell in these workers, yet to be measured."""
        run = CellRun(planned, self.workers, turn_sampling(self.table.sampling), progress, ledger)
        run.own_time = True
        return run

    def reference(self, cell: CellId) -> CellId | None:
        """What a cell is held against, among those of this version that have not failed."""
        return self.table.reference(cell, self.failed)

    def seat(self, cell: str) -> Seat:
        """The cell's run, as one of two that take turns."""
        return Seat(self.runs[cell], self)

    def another_seat(self, cell: str) -> Seat:
        """A second run of a cell in the same workers, whose turns are counted apart."""
        run = self.runs[cell]
        return Seat(self.new_run(run.planned, run.progress, run.ledger), self)

    @property
    def failed(self) -> Collection[str]:
        """Ids of cells without a usable answer."""
        return {cell for cell, run in self.runs.items() if not run.alive or _spoilt(run)}


@dataclass(frozen=True)
class Seat:
    """A cell in one version's workers."""

    run: CellRun
    side: TableSide

    def open(self, number: int) -> None:
        """Set up and warm up, for visit `number`."""
        self.run.open(self.side.reference(self.run.id), number)

    def evaluate(self) -> None:
        """All of a cell without a clock."""
        self.open(0)
        self.run.finish()


@dataclass
class LiveSide:
    """Everything that one version is measured with, and what comes of it."""

    version: Version
    plan: Plan
    identities: Identities
    folder: Path
    progress: Progress
    ledger: Ledger
    context: dict[str, Any]
    """What every record of this side carries."""
    planted: Planted | None = None
    """A defect in all of this side's workers: the gate's self-test."""
    tables: dict[str, TableSide] = field(default_factory=dict)
    _scratches: int = 0

    def __post_init__(self) -> None:
        self.tables = {table.name: TableSide.of(self, table, self.planted) for table in self.plan.tables}

    def new_scratch(self) -> Path:
        """A folder for one set of workers: logs, and answers that others are held against."""
        self._scratches += 1
        folder = self.folder / f"workers-{self._scratches}"
        folder.mkdir(parents=True)
        return folder

    def close(self) -> None:
        """End all workers."""
        for table in self.tables.values():
            table.workers.close()

    def measured(self, narrowed: bool) -> Measured:
        """What there is so far, as a side of a comparison."""
        records = {one.cell: one for table in self.tables.values() for one in self._records(table)}
        documents = {
            run.id.id: run.result.documents or []
            for table in self.tables.values()
            for run in table.runs.values()
            if run.result
        }
        headers = {
            name: TableHeader(
                side.table.table.question, side.table.table.baseline, side.table.table.variants, len(side.table.cells)
            )
            for name, side in self.tables.items()
        }
        return Measured(self._side(), records, lambda record: documents.get(record.cell, []), headers, narrowed)

    def _records(self, side: TableSide) -> Iterable[Record]:
        checkpoint = self.identities.checkpoint(side.table)
        for planned in side.table.cells:
            run = side.runs.get(planned.cell.id)
            if run is None:
                yield _unsupported(planned, checkpoint, self.context)
            elif run.failure or run.result:
                roots = {"roots": run.ready.roots} if run.ready else {}
                yield run.record(checkpoint, {**self.context, **roots}, None)

    def _side(self) -> Side:
        git = self.context.get("git", {})
        return Side(
            name=self.version.name,
            commit=git.get("commit"),
            dirty=bool(git.get("dirty")),
            started=self.context["started"],
            machine=self.context["machine"],
            versions=self.context["versions"],
            threads=self.plan.threads,
            checkpoints={
                str(found["name"]): str(found["sha256"])
                for found in (self.identities.checkpoint(table) for table in self.plan.tables)
            },
        )


def turn_sampling(sampling: Sampling) -> Sampling:
    """One repetition a turn, until a lane has seen how long one takes."""
    return replace(sampling, samples=1, rounds=FEWEST_PAIRS, max_rounds=None, restarts=0)


def at_once(acts: Sequence[Callable[[], None]], threads: int, close: Callable[[], None]) -> None:
    """Do these acts in threads; raises what the first of them raises.

    On that and on Ctrl-C the rest is not begun, and `close` ends the workers that threads wait for.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        for future in [pool.submit(act) for act in acts]:
            future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        close()
        raise
    finally:
        pool.shutdown()


def _spoilt(run: CellRun) -> bool:
    return run.result is not None and run.result.status != Status.PASSED


def _unsupported(planned: PlannedCell, checkpoint: dict[str, Any], context: dict[str, Any]) -> Record:
    cell = planned.cell
    return Record(
        cell=cell.id,
        table=cell.table,
        variant=cell.variant,
        workload=cell.workload,
        status=Status.UNSUPPORTED,
        reasons=planned.reasons,
        checkpoint=checkpoint,
        context=context,
    )


def _unheard(_: float, __: str) -> None:
    """Starting many workers at once, nobody listens to each."""
