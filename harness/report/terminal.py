"""Tables for a terminal: never wider than asked for; blocks of columns are split and row labels repeated."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.report import facts
from harness.report.celltext import Shown, TextColumn
from harness.report.collect import TableData
from harness.report.grid import Grid

GAP = "  "


def table_text(table: TableData, grid: Grid, width: int) -> str:
    """One table: its question, what holds for all rows, the blocks, the notes, and where it comes from."""
    parts = [_wrapped(f"{table.name}: {table.question}", width)]
    parts.append("\n".join(_wrapped(line, width) for line in facts.above(table, grid.everywhere)))
    for block in grid.blocks:
        for columns in split(grid.labels, block.columns, width):
            title = f"[{block.title}]\n" if block.title else ""
            parts.append(title + "\n".join(lines_of(grid.labels, columns, grid.groups)))
    notes = [_wrapped(note, width, f"[{number}] ") for number, note in enumerate(grid.notes, 1)]
    below = [_wrapped(line, width) for line in (facts.LEGEND, *facts.below(table))]
    return "\n\n".join([part for part in [*parts, "\n".join(notes), "\n".join(below)] if part])


def split(labels: Sequence[TextColumn], columns: Sequence[TextColumn], width: int) -> list[list[TextColumn]]:
    """Runs of columns that fit into `width` beside the row labels; a single column that does not fit stands alone."""
    pieces: list[list[TextColumn]] = [[]]
    for column in columns:
        if pieces[-1] and _total([*labels, *pieces[-1], column]) > width:
            pieces.append([])
        pieces[-1].append(column)
    return pieces


def lines_of(labels: Sequence[TextColumn], columns: Sequence[TextColumn], groups: Sequence[Sequence[int]]) -> list[str]:
    """Header, rule and rows; a blank line between groups."""
    laid_out = [(_aligned(column, right=False), _header(column)) for column in labels]
    laid_out += [(_aligned(column, right=True), _header(column)) for column in columns]
    widths = [max(map(len, [*cells, *header])) for cells, header in laid_out]
    sides = [str.ljust] * len(labels) + [str.rjust] * len(columns)
    tall = max(len(header) for _, header in laid_out)
    headers = [[""] * (tall - len(header)) + header for _, header in laid_out]
    lines = [_join([side(h[row], w) for h, w, side in zip(headers, widths, sides, strict=True)]) for row in range(tall)]
    lines.append(GAP.join("-" * width for width in widths))
    for number, group in enumerate(groups):
        lines += [""] if number and len(groups) < len(laid_out[0][0]) else []
        lines += [
            _join([side(cells[i], w) for (cells, _), w, side in zip(laid_out, widths, sides, strict=True)])
            for i in group
        ]
    return lines


def _total(columns: Sequence[TextColumn]) -> int:
    widths = [max(map(len, [*_aligned(column, right=True), *_header(column)])) for column in columns]
    return sum(widths) + len(GAP) * (len(columns) - 1)


def _header(column: TextColumn) -> list[str]:
    """The header over several lines, its unit last."""
    words = column.header.replace(", ", "\n").split("\n")
    lines = [line for word in words for line in textwrap.wrap(word, 16)]
    return [*lines, column.unit] if column.unit else lines


def _aligned(column: TextColumn, right: bool) -> list[str]:
    """Cells of a column as text, their parts one below the other."""
    marked = [_marked(cell, any(cell.best for cell in column.cells)) for cell in column.cells]
    several = [parts for parts in marked if len(parts) > 1]
    count = max((len(parts) for parts in several), default=1)
    widths = [max((len(parts[place]) for parts in several if place < len(parts)), default=0) for place in range(count)]
    return [_cell(parts, widths, right) for parts in marked]


def _cell(parts: tuple[str, ...], widths: Sequence[int], right: bool) -> str:
    if len(parts) == 1:
        return parts[0]
    padded = [part.rjust(width) for part, width in zip(parts, widths, strict=False)]
    padded += [" " * width for width in widths[len(parts) :]]
    return " ".join(text for text, width in zip(padded, widths, strict=True) if width)


def _marked(cell: Shown, room: bool) -> tuple[str, ...]:
    """The star stands behind the value; other values leave room for it."""
    if not room or len(cell.parts) == 1:
        return (cell.parts[0] + "*" if cell.best else cell.parts[0], *cell.parts[1:])
    return (cell.parts[0] + ("*" if cell.best else " "), *cell.parts[1:])


def _join(cells: Sequence[str]) -> str:
    return GAP.join(cells).rstrip()


def _wrapped(text: str, width: int, lead: str = "") -> str:
    return textwrap.fill(text, width, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False)
