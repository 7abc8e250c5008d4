"""Tables of stored runs, for a terminal, as markdown, CSV or JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import UsageError, unknown

if TYPE_CHECKING:
    from harness.contract.columns import Column
    from harness.records.store import RunFolder
    from harness.report.collect import TableData

FORMATS = ("terminal", "markdown", "csv", "json")


def render(runs: Sequence[RunFolder], format: str, width: int = 100, columns: Sequence[Column] = ()) -> str:
    """The report over `runs`; `width` is the widest line on a terminal, `columns` are those that plugins add.

    Records of later runs replace earlier ones of the same cell, weights and machine; where weights or machines
    differ, rows say which run they are of. Raises UsageError for an unknown format, a run without a record, or JSON
    of unlike suites.
    """
    from harness.report.collect import collect

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    tables = collect(runs)
    if not tables:
        raise UsageError("no cell has ended yet: there is nothing to show", ", ".join(str(run.path) for run in runs))
    if format == "csv":
        from harness.report.tidy import csv_text

        return csv_text(tables, columns)
    if format == "json":
        from harness.report.document import json_text

        return json_text(tables)
    return _tables(tables, format, width, columns)


def _tables(tables: Sequence[TableData], format: str, width: int, columns: Sequence[Column]) -> str:
    """Every suite's question, then its tables."""
    import textwrap

    from harness.report.grid import make_grid
    from harness.report.markdown import table_markdown
    from harness.report.terminal import table_text

    parts = []
    for number, table in enumerate(tables):
        if number == 0 or tables[number - 1].suite != table.suite:
            title = f"{table.suite}: {table.suite_question}"
            parts.append(f"## {title}" if format == "markdown" else textwrap.fill(title, width))
        grid = make_grid(table, columns)
        parts.append(table_markdown(table, grid) if format == "markdown" else table_text(table, grid, width))
    return "\n\n".join(parts) if format == "markdown" else "\n\n\n".join(parts)
