"""A live gate without a worker process: both versions, the control's twins and their times are planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.contract.facts import MachineFacts
from harness.contract.planted import Planted
from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.gate.live.gate import LiveGate
from harness.gate.live.side import LiveSide, OtherProtocolError, Version
from harness.gate.rules import Rules
from harness.gate.verdict import GateReport
from harness.records.conditions import Conditions
from harness.records.metrics import metric
from harness.records.record import Status
from harness.run import protocol
from harness.run.cell import ROUNDS_APART
from harness.run.client import CellError
from harness.run.former import Identities
from harness.run.ledger import Ledger
from harness.run.plan import Plan, make_plan
from harness.suite.load import load_suite
from harness.suite.variant import Variant
from tests.run.planted import Quiet
from tests.support.fake_suite import PLUGIN, fake_suite

FACTS = MachineFacts("Linux", "x86_64", "a cpu", 1, 2**34, "cpu")
BASE, NEW = "main", "working tree"


@dataclass(frozen=True)
class LiveTurn:
    """What decides a planted turn."""

    version: str
    kernels: str
    length: int
    visit: int
    number: int
    """Inputs of its first repetition: equal in both turns of a pair."""
    planted: Planted | None
    control: bool
    """Whether the worker exists for a control alone."""


Plant = Callable[[LiveTurn], Any]
"""Milliseconds, or (milliseconds, conditions); raises what a worker would."""


@dataclass
class Machine:
    """Everything that the planted workers of a gate share."""

    plant: Plant
    seconds: float = 0.0
    log: list[str] = field(default_factory=list)
    turns: list[LiveTurn] = field(default_factory=list)
    everything: list[LiveTurn] = field(default_factory=list)
    """Turns, and repetitions between them that do not count."""
    protocols: dict[str, int] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    """Versions that have their workers; any more of them are a control's."""
    refused: dict[str, str] = field(default_factory=dict)
    """`version kernels` -> why such a worker cannot load."""
    metrics: Callable[[LiveTurn, float], dict[str, float]] = lambda _, ms: {"ttft": ms}


class PlantedVersionWorkers:
    """Stands for `VersionWorkers`."""

    machine: Machine

    def __init__(
        self, version: Version, plan: Plan, table: Any, scratch: Path, progress: Any, planted: Planted | None = None
    ) -> None:
        self.version = version
        self.planted = planted
        self.control = version.name in self.machine.made
        self.machine.made.add(version.name)
        self.running: dict[Variant, PlantedClient] = {}
        self.visits: dict[Variant, int] = {}

    def open(self) -> None:
        self.machine.log.append(f"nursery {self.version.name}")

    def starts(self, variants: Any) -> list[Callable[[], None]]:
        def one(variant: Variant) -> None:
            with suppress(CellError):
                self.get(variant)

        return [partial(one, variant) for variant in dict.fromkeys(variants)]

    def get(self, variant: Variant, *_: Any) -> PlantedClient:
        if variant not in self.running:
            name = f"{self.version.name} {variant.kernels}"
            self.machine.log.append(f"start {name}{' planted' if self.planted else ''}")
            self._refuse(name)
            self.running[variant] = PlantedClient(self, variant.kernels, self.visits.get(variant, 0))
            self.visits[variant] = self.visits.get(variant, 0) + 1
        return self.running[variant]

    def _refuse(self, name: str) -> None:
        if self.machine.protocols.get(self.version.name, protocol.PROTOCOL) != protocol.PROTOCOL:
            raise OtherProtocolError("its workers speak another protocol")
        reason = self.machine.refused.get(name)
        if reason and self.version.is_base:
            raise CellError(Status.UNSUPPORTED, [reason], answered=True)
        if reason:
            raise UsageError(reason)

    def drop(self, variant: Variant) -> None:
        self.running.pop(variant, None)

    def drop_dead(self, variant: Variant) -> None:
        pass

    def close(self) -> None:
        self.running.clear()


@dataclass
class PlantedClient:
    """One planted worker."""

    workers: PlantedVersionWorkers
    kernels: str
    visit: int
    length: int = 0
    kind: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)
    ready: protocol.Ready = field(
        default_factory=lambda: protocol.Ready({}, {}, protocol.PROTOCOL, {"harness": "there"})
    )

    def take_place(self, number: int | None) -> bool:
        return False

    def ask(self, request: protocol.Request, seconds: float, listen: Any) -> protocol.Reply:
        machine = self.workers.machine
        machine.log.append(f"{type(request).__name__.lower()} {self.workers.version.name} {self.kernels}")
        if isinstance(request, protocol.Open):
            self.length, self.samples = request.cell.workload["length"], {}
            self.kind = request.cell.workload["kind"]
            return protocol.Opened(self.kind in ("prefill", "decode"), repetition_seconds=0.01)
        if isinstance(request, protocol.Block):
            return self._block(request)
        metrics = {name: metric(name, values) for name, values in self.samples.items()}
        return protocol.Result(Status.PASSED, [], {**metrics, "cache_bytes": metric("cache_bytes", [64])}, {}, None)

    def _block(self, request: protocol.Block) -> protocol.Done:
        workers, machine = self.workers, self.workers.machine
        inputs = request.inputs or 0
        turn = LiveTurn(
            workers.version.name, self.kernels, self.length, self.visit, inputs, workers.planted, workers.control
        )
        first = {"prefill": "ttft", "decode": "tpot"}[self.kind]
        machine.everything.append(turn)
        if inputs % ROUNDS_APART < ROUNDS_APART // 2:
            machine.turns.append(turn)
        found = machine.plant(turn)
        milliseconds, conditions = found if isinstance(found, tuple) else (found, Conditions())
        milliseconds *= 1 + (turn.planted.slower if turn.planted else 0.0)
        given = machine.metrics(turn, milliseconds)
        samples = {first if name == "ttft" else name: [value] * request.samples for name, value in given.items()}
        for name, values in samples.items():
            self.samples.setdefault(name, []).extend(values)
        return protocol.Done(samples, milliseconds * request.samples / 1e3, conditions)


RELATIVE = {"metrics": "ttft", "limit": "relative", "tolerate": "1%", "catch": "5%"}


def planted_gate(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    *,
    kernels: Sequence[str] = ("sound", "slow"),
    lengths: Sequence[int] = (8, 16),
    rules: Sequence[dict[str, Any]] = (RELATIVE,),
    workloads: list[dict[str, Any]] | None = None,
    **gate: Any,
) -> LiveGate:
    """A gate over planted workers, yet to be asked for its report."""
    workers = type("Workers", (PlantedVersionWorkers,), {"machine": machine})
    monkeypatch.setattr("harness.gate.live.side.VersionWorkers", workers)
    other = {"workloads": workloads} if workloads else {}
    suite = fake_suite(folder, list(kernels), list(lengths), gate={"rules": list(rules), **gate}, **other)
    registry = Registry([str(PLUGIN)], entry_points=False)
    plan = make_plan(load_suite(suite.path), registry, FACTS)
    ledger, identities = Ledger(), Identities(plan, registry)
    root = Path(__file__).resolve().parents[3]

    def side(name: str, is_base: bool) -> LiveSide:
        version = Version(name, root, root, [], [], is_base)
        context = {"machine": {}, "versions": {}, "git": {}, "started": "2026-01-01T00:00:00+00:00"}
        return LiveSide(version, plan, identities, folder / name, Quiet(), ledger, context)

    section = plan.suite.suite.gate
    assert section is not None
    return LiveGate(side(BASE, True), side(NEW, False), lambda: Rules.of_suite(plan.suite), section)


def judged(folder: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant, **more: Any) -> tuple[GateReport, Machine]:
    """The report of a planted gate, and the machine that it ran on."""
    machine = more.pop("machine", None) or Machine(plant)
    return planted_gate(folder, monkeypatch, machine, **more).report(), machine
