"""Rows of a table: variants at one length and batch, with the records of every workload kind that meet there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.collect import Entry, Origin, TableData
from harness.report.columns import SUBJECT, UNTIMED, MetricColumn, statistics_of
from harness.suite.variant import Variant

Subject = tuple[str | int | None, ...]
"""Values of the workload keys in `SUBJECT`."""


@dataclass(frozen=True)
class RowKey:
    """What a row stands for."""

    origin: Origin
    subject: Subject
    length: int | None
    batch: int | None
    variant: Variant

    @property
    def group(self) -> tuple[Origin, Subject, int | None, int | None]:
        """Rows of one group answer the same question and are compared with each other."""
        return self.origin, self.subject, self.length, self.batch


def row_keys(table: TableData) -> list[RowKey]:
    """Every variant at every (length, batch) of a timed workload; untimed ones stand beside those of their length."""
    shapes: dict[tuple[Origin, int | None], set[int | None]] = {}
    for entry in table.entries:
        if entry.kind not in UNTIMED:
            shapes.setdefault((entry.origin, _length(entry)), set()).add(_batch(entry))
    subjects = list(dict.fromkeys(_subject(entry) for entry in table.entries))
    keys = {
        RowKey(entry.origin, _subject(entry), _length(entry), batch, entry.record.variant)
        for entry in table.entries
        for batch in (
            [_batch(entry)] if entry.kind not in UNTIMED else shapes.get((entry.origin, _length(entry)), [None])
        )
    }

    def place(key: RowKey) -> tuple[int, ...]:
        where = table.origins.index(key.origin), subjects.index(key.subject)
        return *where, key.length or 0, key.batch or 0, table.variants.index(key.variant)

    return sorted(keys, key=place)


class Rows:
    """The rows of a table, and the record of any row in any column."""

    def __init__(self, table: TableData) -> None:
        self.table = table
        self.keys = row_keys(table)
        self._entries: dict[tuple[Origin, Subject, int | None, Variant], list[Entry]] = {}
        for entry in table.entries:
            place = entry.origin, _subject(entry), _length(entry), entry.record.variant
            self._entries.setdefault(place, []).append(entry)

    def records(self, row: RowKey) -> list[Entry]:
        """All records of a row, of every kind."""
        entries = self._entries.get((row.origin, row.subject, row.length, row.variant), [])
        return [entry for entry in entries if entry.kind in UNTIMED or _batch(entry) == row.batch]

    def entries(self, column: MetricColumn) -> list[Entry | None]:
        """The record of every row in one column."""
        return [next((one for one in self.records(row) if column.shows(one)), None) for row in self.keys]

    def values(self, column: MetricColumn) -> list[float | None]:
        """The (first) number of every row in one column, in stored units."""
        found = [[] if entry is None else statistics_of(entry, column) for entry in self.entries(column)]
        return [numbers[0] if numbers else None for numbers in found]

    @property
    def groups(self) -> list[list[int]]:
        """Positions of the rows that are compared with each other."""
        groups: dict[tuple[Origin, Subject, int | None, int | None], list[int]] = {}
        for index, row in enumerate(self.keys):
            groups.setdefault(row.group, []).append(index)
        return list(groups.values())


def without_twins(columns: Sequence[MetricColumn], rows: Rows) -> list[MetricColumn]:
    """Sizes that prefill and decode report alike, row by row, are shown once."""
    kept: list[MetricColumn] = []
    for column in columns:
        twins = [one for one in kept if column.is_size and one.metric == column.metric]
        if not any(_agree(rows.values(one), rows.values(column)) for one in twins):
            kept.append(column)
    return kept


def _agree(one: Sequence[float | None], other: Sequence[float | None]) -> bool:
    return all(a == b for a, b in zip(one, other, strict=True) if a is not None and b is not None)


def _subject(entry: Entry) -> Subject:
    return tuple(entry.record.workload.get(key) for key in SUBJECT)


def _length(entry: Entry) -> int | None:
    return entry.record.workload.get("length")


def _batch(entry: Entry) -> int | None:
    return entry.record.workload.get("batch")
