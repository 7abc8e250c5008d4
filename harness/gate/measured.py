"""One side of a comparison, opened: its records by cell, their documents, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from harness.errors import UsageError
from harness.gate.verdict import Side
from harness.records.record import Record
from harness.records.store import RunFolder, TableHeader

Documents = Callable[[Record], list[dict[str, Any]]]
"""The per-document results of a record."""


@dataclass(frozen=True)
class Measured:
    """Everything that one side has to say. A live gate makes its own from what its workers answered."""

    side: Side
    records: Mapping[str, Record]
    """Cell id -> its newest record, in the order in which the cells ended."""
    documents: Documents
    tables: Mapping[str, TableHeader] = field(default_factory=dict)
    """What was asked; a table or variant that is not in here was left out on purpose."""
    narrowed: bool = False
    """Whether the command line asked for a part of the suite (`--only`)."""
    accepted: Mapping[str, date] = field(default_factory=dict)
    """For a baseline: cell id -> the day on which it was accepted."""

    def asked_for(self, record: Record) -> bool:
        """Whether this side's suite contains the cell's table and variant."""
        table = self.tables.get(record.table)
        return table is not None and record.variant in table.variants


def open_run(run: RunFolder, name: str | None = None, accepted: Mapping[str, date] | None = None) -> Measured:
    """A stored run (or baseline) as one side. Raises UsageError when no cell of it has ended."""
    records = {record.cell: record for record in run.records()}
    if not records:
        raise UsageError("no cell has ended yet: there is nothing to compare", str(run.path))
    context = run.header.context
    side = Side(
        name=name or str(run.path),
        commit=context.get("git", {}).get("commit"),
        dirty=bool(context.get("git", {}).get("dirty")),
        started=run.header.started,
        machine=context.get("machine", {}),
        versions=context.get("versions", {}),
        threads=context.get("threads"),
        checkpoints=_checkpoints(records),
    )
    narrowed = bool(context.get("command", {}).get("only"))
    return Measured(side, records, run.samples, run.header.tables, narrowed, accepted or {})


def _checkpoints(records: Mapping[str, Record]) -> dict[str, str]:
    named = (record.checkpoint for record in records.values() if record.checkpoint)
    return {checkpoint["name"]: checkpoint.get("sha256", "") for checkpoint in named}
