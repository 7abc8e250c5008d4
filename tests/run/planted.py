"""A table run without a worker process: planted answers instead, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contract.facts import MachineFacts
from harness.contract.registry import Registry
from harness.records.conditions import Conditions
from harness.records.metrics import metric
from harness.records.record import Record, Status
from harness.records.store import RunFolder
from harness.run import protocol
from harness.run.client import CellError
from harness.run.former import FormerRuns, Identities, take_over
from harness.run.ledger import Ledger
from harness.run.plan import Plan, make_plan
from harness.run.progress import Progress
from harness.run.table import OpenRun, TableRun
from harness.suite.load import load_suite
from harness.suite.variant import Variant
from tests.support.fake_suite import PLUGIN, fake_suite

FACTS = MachineFacts("Linux", "x86_64", "a cpu", 1, 2**34, "cpu")

Plant = Callable[["Turn"], Any]


@dataclass(frozen=True)
class Turn:
    """What decides a planted block."""

    kernels: str
    length: int
    start: int
    """Which start of this variant's worker it is, counted from 0."""
    block: int
    """Which block of this cell in this worker it is, counted from 0."""


class PlantedClock:
    """Seconds that pass when a worker works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Quiet(Progress):
    """Progress that nobody watches; keeps what is noted."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.notes: list[str] = []

    def _show(self) -> None:
        pass

    def note(self, line: str) -> None:
        self.notes.append(line)

    def close(self) -> None:
        pass


@dataclass
class PlantedWorkers:
    """Stands for `Workers`. `plant` gives milliseconds, or (milliseconds, conditions), or raises."""

    plant: Plant
    clock: PlantedClock
    start_seconds: float = 3.0
    starts: dict[str, int] = field(default_factory=dict)
    running: dict[str, PlantedClient] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    inputs: list[tuple[str, int | None]] = field(default_factory=list)
    """Kernels and the number of the first inputs of every block."""

    def get(self, variant: Variant, *_: Any) -> PlantedClient:
        name = variant.kernels
        if name not in self.running:
            self.starts[name] = self.starts.get(name, -1) + 1
            self.running[name] = PlantedClient(self, name, self.starts[name])
            self.clock.now += self.start_seconds
            self.log.append(f"start {name}")
        return self.running[name]

    def drop(self, variant: Variant) -> None:
        self.running.pop(variant.kernels, None)

    def drop_dead(self, variant: Variant) -> None:
        pass

    def drop_others(self, variant: Variant) -> None:
        self.running = {name: one for name, one in self.running.items() if name == variant.kernels}

    def close(self) -> None:
        self.running.clear()


@dataclass
class PlantedClient:
    """One planted worker."""

    workers: PlantedWorkers
    kernels: str
    start: int
    length: int = 0
    blocks: int = 0
    samples: list[float] = field(default_factory=list)
    ready: protocol.Ready = field(default_factory=lambda: protocol.Ready({"everything": "planted"}, {}))

    def take_place(self, number: int | None) -> bool:
        return False

    def ask(self, request: protocol.Request, seconds: float, listen: Any) -> protocol.Reply:
        self.workers.log.append(f"{type(request).__name__.lower()} {self.kernels}")
        if isinstance(request, protocol.Open):
            self.length, self.blocks, self.samples = request.cell.workload["length"], 0, []
            self.workers.clock.now += 0.5 + 0.25 * request.warmup
            return protocol.Opened(True, 0.0, 0.25 * request.warmup)
        if isinstance(request, protocol.Block):
            return self._block(request)
        self.workers.clock.now += 0.5
        metrics = {"ttft": metric("ttft", self.samples), "cache_bytes": metric("cache_bytes", [64])}
        return protocol.Result(Status.PASSED, [], metrics, {"held_against": "nothing"}, None)

    def _block(self, request: protocol.Block) -> protocol.Done:
        planted = self.workers.plant(Turn(self.kernels, self.length, self.start, self.blocks))
        milliseconds, conditions = planted if isinstance(planted, tuple) else (planted, Conditions())
        self.blocks += 1
        self.workers.inputs.append((self.kernels, request.inputs))
        self.samples += [milliseconds] * request.samples
        self.workers.clock.now += milliseconds * request.samples / 1e3
        return protocol.Done(
            {"ttft": [milliseconds] * request.samples}, milliseconds * request.samples / 1e3, conditions
        )


@dataclass
class PlantedRun:
    """A suite over the fake engine, run with planted workers as often as a test likes."""

    folder: Path
    plan: Plan
    identities: Identities
    workers: PlantedWorkers | None = None
    ledger: Ledger | None = None

    @classmethod
    def of(cls, folder: Path, kernels: Sequence[str], lengths: Sequence[int], **sampling: Any) -> PlantedRun:
        suite = fake_suite(folder, list(kernels), list(lengths), sampling=sampling)
        registry = Registry([str(PLUGIN)], entry_points=False)
        plan = make_plan(load_suite(suite.path), registry, FACTS)
        return cls(folder, plan, Identities(plan, registry))

    def measure(self, plant: Plant) -> list[Record]:
        """Run every table; what former runs of this object have stored is taken over. Returns the stored records."""
        former = FormerRuns.below(self.folder / "results", "planted")
        plan = take_over(self.plan, former, self.identities)
        clock = PlantedClock()
        self.workers = PlantedWorkers(plant, clock)
        self.ledger = Ledger(clock)
        store = RunFolder.create(self.folder / "results", "planted", {}, {})
        run = OpenRun(plan, self.identities, store, Quiet(), self.ledger, {"threads": 1})
        try:
            for table in plan.tables:
                one = TableRun(run, table)
                one.workers = self.workers  # type: ignore[assignment]
                for cell in one.runs.values():
                    cell.workers = self.workers  # type: ignore[assignment]
                one.measure()
        finally:
            store.close(self.ledger.close(True))
        return store.records()


def failing(reason: str) -> CellError:
    """What a planted block raises for a worker that dies."""
    return CellError(Status.FAILED, [reason])
