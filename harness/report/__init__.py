"""Tables of stored runs, for a terminal, as markdown, CSV or JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import UsageError, unknown

if TYPE_CHECKING:
    from harness.contract.columns import Column
    from harness.records.store import RunFolder
    from harness.report.collect import TableData
    from harness.report.grid import Layout

TABLES = ("terminal", "markdown")
FORMATS = (*TABLES, "csv", "json")


def render(
    runs: Sequence[RunFolder],
    format: str,
    width: int = 100,
    columns: Sequence[Column] = (),
    names: Sequence[str] = (),
    brief: bool = False,
) -> str:
    """The report over `runs`; `width` is the widest line on a terminal, `columns` are those that plugins add.

    With `names`, of these tables only; `brief` leaves out the columns that explain the ones that answer.

    Records of later runs replace earlier ones of the same cell, weights and machine; where weights or machines
    differ, rows say which run they are of. Raises UsageError for an unknown format or table, a run without a record,
    JSON of unlike suites, or brief CSV or JSON.
    """
    from harness.report.collect import collect

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if brief and format not in TABLES:
        raise UsageError(f"brief is about tables, {format} has every value; allowed with it: {', '.join(TABLES)}")
    tables = collect(runs)
    if not tables:
        raise UsageError("no cell has ended yet: there is nothing to show", ", ".join(str(run.path) for run in runs))
    tables = _named(tables, names)
    if format == "csv":
        from harness.report.tidy import csv_text

        return csv_text(tables, columns)
    if format == "json":
        from harness.report.document import json_text

        return json_text(tables)
    return _tables(tables, _layout(format, width), columns, brief)


def _named(tables: Sequence[TableData], names: Sequence[str]) -> list[TableData]:
    there = dict.fromkeys(table.name for table in tables)
    for name in names:
        if name not in there:
            raise unknown("table", name, there)
    return [table for table in tables if not names or table.name in names]


def _tables(tables: Sequence[TableData], layout: Layout, columns: Sequence[Column], brief: bool) -> str:
    """Every suite's question, then its tables."""
    from harness.report.grid import make_grid

    parts = []
    for number, table in enumerate(tables):
        if number == 0 or tables[number - 1].suite != table.suite:
            parts.append(layout.title(f"{table.suite}: {table.suite_question}"))
        parts.append(layout.table(table, make_grid(table, columns, brief)))
    return layout.separator.join(parts)


def _layout(format: str, width: int) -> Layout:
    if format == "markdown":
        from harness.report.markdown import Markdown

        return Markdown()
    from harness.report.terminal import Terminal

    return Terminal(width)
