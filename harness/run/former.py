"""What former runs of a suite are still good for: the same command again measures only what has changed.

A record answers for a cell when everything that decides its value is the same: weights, code, reference, machine,
packages, settings and text. Only `passed` does: whatever else happened may have been the machine's fault. A run that
takes records over copies them into its own folder, each with the name of the run that measured it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from harness import corpus
from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.records.record import Record, Status
from harness.records.store import RunFolder
from harness.run.identity import checkpoint_identity, fingerprint
from harness.run.plan import Plan, PlannedCell, PlannedTable
from harness.run.sources import variant_digest
from harness.suite.reference import TIMED
from harness.suite.variant import Variant

TIMES_OF = 5
"""Stored runs of a suite that estimates of time go by."""

NOT_DECISIVE = ("timeout",)
"""Keys of a suite's sampling that decide no value."""


@dataclass(frozen=True)
class Stored:
    """A record that passed, and the run that holds it."""

    folder: RunFolder
    record: Record

    @property
    def measured_in(self) -> str:
        """Name of the run that measured it."""
        return str(self.record.context.get("carried_over", self.folder.path.name))


@dataclass(frozen=True)
class FormerRuns:
    """Every passed record of the stored runs of one suite, newest run first."""

    found: Sequence[Stored]

    @classmethod
    def below(cls, out: Path, suite: str) -> FormerRuns:
        """Read the runs of `suite` in the folder `out`; what cannot be read is no reason not to start a new run."""
        headers = sorted(out.glob(f"{suite}-*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        found: list[Stored] = []
        for header in headers:
            with contextlib.suppress(UsageError, OSError):
                folder = RunFolder.open(header.parent)
                found += [Stored(folder, one) for one in reversed(folder.records()) if _is_whole(folder, one)]
        return cls(found)

    def seconds(self) -> dict[tuple[str, str], float]:
        """(checkpoint's name, cell id) to the seconds that it took when it was last measured."""
        newest = list(dict.fromkeys(one.folder.path for one in self.found))[:TIMES_OF]
        return {
            (one.record.checkpoint.get("name", ""), one.record.cell): float(one.record.context.get("seconds", 0.0))
            for one in reversed(self.found)
            if one.folder.path in newest
        }

    def of(self, cell: str) -> list[Stored]:
        """The cell's records, newest first."""
        return [one for one in self.found if one.record.cell == cell]


@dataclass(frozen=True)
class Identities:
    """Everything that decides the value of each cell, as short hashes with a name each."""

    plan: Plan
    registry: Registry
    _code: dict[str, str] = field(default_factory=dict)
    _checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)

    def checkpoint(self, table: PlannedTable) -> dict[str, Any]:
        """See `checkpoint_identity`; a table's files are hashed once."""
        if table.name not in self._checkpoints:
            self._checkpoints[table.name] = checkpoint_identity(table.table.checkpoint, table.config, self.plan.seed)
        return self._checkpoints[table.name]

    def settle(self) -> None:
        """Hash code and checkpoints now: what is edited later is not what the first workers have started with."""
        for table in self.plan.tables:
            for planned in table.measured:
                self.of(table, planned)

    def of(self, table: PlannedTable, planned: PlannedCell) -> dict[str, str]:
        """The identity of one cell."""
        reference = table.reference(planned.cell)
        return {
            "checkpoint": self.checkpoint(table)["sha256"][:16],
            "code": self._code_of(planned.cell.variant),
            "reference": f"{reference.variant.id} {self._code_of(reference.variant)}" if reference else "",
            "machine": fingerprint(self.plan.facts),
            "packages": self._packages,
            "settings": self._settings(table, planned),
            "text": corpus.split("held_out").sha256[:16] if _reads_text(planned) else "",
        }

    def _code_of(self, variant: Variant) -> str:
        if variant.id not in self._code:
            self._code[variant.id] = variant_digest(self.registry, variant)
        return self._code[variant.id]

    @functools.cached_property
    def _packages(self) -> str:
        versions = {name: version for name, version in self.plan.facts.packages.items() if name != "deepseek-harness"}
        return _digest({"python": platform.python_version(), **versions})

    def _settings(self, table: PlannedTable, planned: PlannedCell) -> str:
        """Threads and seed; sampling where there is a clock; the content of a task file."""
        kind = planned.cell.workload["kind"]
        sampling = msgspec.to_builtins(table.sampling) if kind in TIMED else {}
        task = Path(str(planned.cell.workload.get("tasks", "")))
        return _digest(
            {
                "threads": self.plan.threads,
                "seed": self.plan.seed,
                "sampling": {key: value for key, value in sampling.items() if key not in NOT_DECISIVE},
                "task": task.read_text() if task.suffix in (".yaml", ".yml") and task.is_file() else "",
            }
        )


def take_over(plan: Plan, former: FormerRuns, identities: Identities) -> Plan:
    """The plan with every cell that need not be measured again marked by its stored record."""

    def marked(table: PlannedTable, planned: PlannedCell) -> PlannedCell:
        candidates = former.of(planned.cell.id) if planned.runs else []
        identity = identities.of(table, planned) if candidates else {}
        same = next((one for one in candidates if one.record.identity == identity), None)
        whole = same is None or _is_complete(same.record, planned, table.sampling.processes)
        return replace(planned, former=same) if whole else replace(planned, begun=same)

    tables = [replace(table, cells=[marked(table, one) for one in table.cells]) for table in plan.tables]
    return replace(plan, tables=tables)


def changes(plan: Plan, former: FormerRuns, identities: Identities) -> list[str]:
    """Why cells that former runs have are measured again, such as `4 cells: code, packages`."""
    reasons: Counter[str] = Counter()
    for table in plan.tables:
        for planned in table.measured:
            candidates = former.of(planned.cell.id)
            if candidates:
                reasons[_difference(identities.of(table, planned), candidates[0].record.identity)] += 1
    return [f"{count} {'cells' if count > 1 else 'cell'}: {what}" for what, count in reasons.items()]


def _is_complete(record: Record, planned: PlannedCell, processes: int) -> bool:
    """Whether every process of a timed cell has been measured; the record of an interrupted run may lack some."""
    return not planned.is_timed or len({block.process for block in record.blocks}) >= processes


def _is_whole(folder: RunFolder, record: Record) -> bool:
    there = record.samples_file is None or (folder.path / record.samples_file).is_file()
    return record.status == Status.PASSED and there


def _difference(now: Mapping[str, str], before: Mapping[str, str]) -> str:
    if not before:
        return "stored without its identity"
    parts = [part for part in now if now[part] != before.get(part)]
    return ", ".join(part for part in parts if part != "reference" or len(parts) == 1)  # its code is code, too


def _reads_text(planned: PlannedCell) -> bool:
    return planned.cell.workload["kind"] == "accuracy" or planned.cell.workload.get("context") == "text"


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
