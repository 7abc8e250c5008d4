"""Tables for a terminal: never wider than asked for; blocks of columns are split and row labels repeated."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from harness.report import facts
from harness.report.celltext import Shown, TextColumn
from harness.report.collect import TableData
from harness.report.grid import Grid, TextBlock, answered

GAP = "  "


class Terminal:
    """Layout for a terminal of `width` columns."""

    separator = "\n\n\n"

    def __init__(self, width: int) -> None:
        self.width = width

    def title(self, text: str) -> str:
        return self._wrapped(text)

    def table(self, table: TableData, grid: Grid) -> str:
        parts = [self._wrapped(f"{table.name}: {table.question}")]
        parts.append("\n".join(self._wrapped(line) for line in facts.above(table, grid.everywhere)))
        parts += [text for block in grid.blocks for text in self._block(grid, block)]
        parts.append("\n".join(self._wrapped(note, f"[{number}] ") for number, note in enumerate(grid.notes, 1)))
        parts.append("\n".join(self._wrapped(line) for line in (facts.legend(table), *facts.below(table))))
        return "\n\n".join(part for part in parts if part)

    def _block(self, grid: Grid, block: TextBlock) -> list[str]:
        title = f"[{block.title}]\n" if block.title else ""
        pieces = split(grid.labels, block.columns, self.width)
        return [title + "\n".join(lines_of(grid.labels, columns, grid.groups)) for columns in pieces]

    def _wrapped(self, text: str, lead: str = "") -> str:
        indent = " " * len(lead)
        return textwrap.fill(text, self.width, initial_indent=lead, subsequent_indent=indent, break_on_hyphens=False)


def split(labels: Sequence[TextColumn], columns: Sequence[TextColumn], width: int) -> list[list[TextColumn]]:
    """Runs of columns that fit into `width` beside the row labels; a single column that does not fit stands alone."""
    pieces: list[list[TextColumn]] = [[]]
    for column in columns:
        if pieces[-1] and _total([*labels, *pieces[-1], column]) > width:
            pieces.append([])
        pieces[-1].append(column)
    return pieces


def lines_of(labels: Sequence[TextColumn], columns: Sequence[TextColumn], groups: Sequence[Sequence[int]]) -> list[str]:
    """Header, rule, and the rows of which these columns say something; a blank line between groups."""
    laid_out = [(cells, _header(column, cells)) for column in [*labels, *columns] for cells in [_aligned(column)]]
    widths = [max(map(len, [*cells, *header])) for cells, header in laid_out]
    sides = [str.ljust] * len(labels) + [str.rjust] * len(columns)
    tall = max(len(header) for _, header in laid_out)
    headers = [[""] * (tall - len(header)) + header for _, header in laid_out]
    lines = [_join([side(h[row], w) for h, w, side in zip(headers, widths, sides, strict=True)]) for row in range(tall)]
    lines.append(GAP.join("-" * width for width in widths))
    shown = answered(columns, groups)
    single = all(len(group) == 1 for group in shown)
    for number, group in enumerate(shown):
        lines += [""] if number and not single else []
        lines += [
            _join([side(cells[i], w) for (cells, _), w, side in zip(laid_out, widths, sides, strict=True)])
            for i in group
        ]
    return lines


def _total(columns: Sequence[TextColumn]) -> int:
    cells = [_aligned(column) for column in columns]
    widths = [max(map(len, [*one, *_header(column, one)])) for column, one in zip(columns, cells, strict=True)]
    return sum(widths) + len(GAP) * (len(columns) - 1)


def _header(column: TextColumn, cells: Sequence[str]) -> list[str]:
    """The header over as many lines as keep it from being wider than its cells, its unit last."""
    parts = column.header.split(", ") + ([column.unit] if column.unit else [])
    longest = max((len(word) for part in parts for word in part.split()), default=1)
    room = max(longest, *map(len, cells))
    return [line for part in parts for line in textwrap.wrap(part, room, break_long_words=False)]


def _aligned(column: TextColumn) -> list[str]:
    """Cells of a column as text, their parts one below the other."""
    marked = [_marked(cell, any(cell.best for cell in column.cells)) for cell in column.cells]
    several = [parts for parts in marked if len(parts) > 1]
    count = max((len(parts) for parts in several), default=1)
    widths = [max((len(parts[place]) for parts in several if place < len(parts)), default=0) for place in range(count)]
    return [_cell(parts, widths) for parts in marked]


def _cell(parts: tuple[str, ...], widths: Sequence[int]) -> str:
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
