"""The same tables as GitHub-flavoured markdown."""

from __future__ import annotations

from tabulate import tabulate

from harness.report import facts
from harness.report.celltext import Shown, TextColumn
from harness.report.collect import TableData
from harness.report.grid import Grid, TextBlock


def table_markdown(table: TableData, grid: Grid) -> str:
    """One table: its question, what holds for all rows, the blocks, the notes, and where it comes from."""
    parts = [
        f"### {table.name}: {_escaped(table.question)}",
        "\n".join(_item(line) for line in facts.above(table, grid.everywhere)),
    ]
    for block in grid.blocks:
        parts += [f"**{block.title}**"] if block.title else []
        parts.append(_block(grid, block))
    parts.append("\n".join(f"{number}. {_escaped(note)}" for number, note in enumerate(grid.notes, 1)))
    parts.append("\n".join(_item(line) for line in (facts.LEGEND.replace("*", "**bold**", 1), *facts.below(table))))
    return "\n\n".join(part for part in parts if part)


def _block(grid: Grid, block: TextBlock) -> str:
    columns = [*grid.labels, *block.columns]
    order = [index for group in grid.groups for index in group]
    rows = [[_cell(column.cells[index]) for column in columns] for index in order]
    align = ["left"] * len(grid.labels) + ["right"] * len(block.columns)
    return tabulate(
        rows, [_header(column) for column in columns], tablefmt="pipe", colalign=align, disable_numparse=True
    )


def _header(column: TextColumn) -> str:
    return _escaped(f"{column.header}, {column.unit}" if column.unit else column.header)


def _cell(cell: Shown) -> str:
    first, *others = [_escaped(part) for part in cell.parts if part]
    return " ".join([f"**{first}**" if cell.best else first, *others])


def _item(line: str) -> str:
    return f"- {_escaped(line)}"


def _escaped(text: str) -> str:
    """Characters that would end a cell or start markup."""
    for character in "\\|*_<>":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
