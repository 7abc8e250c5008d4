"""A whole table as text, before it is laid out for a terminal or as markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from harness.contract.columns import Column
from harness.errors import UsageError
from harness.report import numbers
from harness.report.celltext import NOTHING, MetricText, Notes, Shown, TextColumn
from harness.report.collect import Entry, TableData
from harness.report.columns import SUBJECT, Block, blocks_of
from harness.report.rows import RowKey, Rows, without_twins


@dataclass(frozen=True)
class TextBlock:
    """Columns that stand together under a title."""

    title: str
    columns: list[TextColumn]


@dataclass(frozen=True)
class Grid:
    """Row labels, blocks of metric columns, and the notes that their cells point at."""

    labels: list[TextColumn]
    blocks: list[TextBlock]
    notes: list[str]
    everywhere: list[str]
    """Metrics that are the same in every row, with their value."""
    groups: list[list[int]]
    """Rows that are compared with each other."""


class Layout(Protocol):
    """A way to write grids down."""

    separator: str
    """What stands between a suite's title and its tables."""

    def title(self, text: str) -> str:
        """The suite's name and question."""

    def table(self, table: TableData, grid: Grid) -> str:
        """One table: its question, what holds for all rows, the blocks, the notes, and where it comes from."""


def make_grid(table: TableData, columns: Sequence[Column] = (), brief: bool = False) -> Grid:
    """Turn a table's records into text; `columns` are those that plugins add, `brief` keeps the first block of ours.

    Raises UsageError when a plugin's column fails.
    """
    rows, notes = Rows(table), Notes()
    blocks: list[TextBlock] = []
    everywhere: list[str] = []
    for block in blocks_of(table)[: 1 if brief else None]:
        texts = _texts(block, rows, notes)
        everywhere += [text.once() for text in texts if text.same_everywhere]
        kept = [text.text() for text in texts if not text.same_everywhere]
        blocks += [TextBlock(block.title, kept)] if kept else []
    if columns:
        blocks.append(TextBlock("from plugins", [_plugin_column(column, rows) for column in columns]))
    return Grid(labels(table, rows.keys), blocks, notes.texts, everywhere, rows.groups)


def _texts(block: Block, rows: Rows, notes: Notes) -> list[MetricText]:
    columns = without_twins(block.columns, rows)
    kinds: dict[tuple[str, str, str], set[str]] = {}
    for column in columns:
        kinds.setdefault((column.metric, column.statistic, column.task), set()).add(column.kind)
    return [
        MetricText(column, rows, notes, shared=len(kinds[column.metric, column.statistic, column.task]) > 1)
        for column in columns
    ]


def labels(table: TableData, rows: Sequence[RowKey]) -> list[TextColumn]:
    """What differs between rows: run, length, batch, then the axes that tell the variants apart."""
    texts = {
        "run": [chr(ord("A") + table.origins.index(row.origin)) for row in rows],
        **{key: [_named(row.subject[place]) for row in rows] for place, key in enumerate(SUBJECT)},
        "length": [NOTHING if row.length is None else f"{row.length:,}" for row in rows],
        "batch": [NOTHING if row.batch is None else f"{row.batch:,}" for row in rows],
    }
    texts = {name: column for name, column in texts.items() if len(set(column)) > 1}
    axes = table.axes or ([] if texts else ["engine"])
    texts |= {axis: [getattr(row.variant, axis) for row in rows] for axis in axes}
    return [TextColumn(name, "", [Shown((text,)) for text in column]) for name, column in texts.items()]


def _named(value: str | int | None) -> str:
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else value


def answered(columns: Sequence[TextColumn], groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rows, group by group, of which at least one of these columns says something."""
    said = [
        [index for index in group if any(column.cells[index].parts != (NOTHING,) for column in columns)]
        for group in groups
    ]
    return [group for group in said if group]


def plugin_value(column: Column, entries: Sequence[Entry]) -> str | float | None:
    """What a plugin's column says of the first of these records that it has something to say of.

    Raises UsageError when the plugin's function fails.
    """
    for entry in entries:
        try:
            value = column.value(msgspec.to_builtins(entry.record))
        except Exception as error:
            where = f"report column {column.header!r}"
            raise UsageError(f"fails on {entry.record.cell}: {type(error).__name__}: {error}", where) from error
        if value is not None:
            return value
    return None


def _plugin_column(column: Column, rows: Rows) -> TextColumn:
    values = [plugin_value(column, rows.records(row)) for row in rows.keys]
    texts = [numbers.number(value) if isinstance(value, float) else str(value) for value in values]
    return TextColumn(column.header, "", [Shown((NOTHING if text == "None" else text,)) for text in texts])
