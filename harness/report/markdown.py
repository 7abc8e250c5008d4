"""The same tables as GitHub-flavoured markdown."""

from __future__ import annotations

from collections.abc import Iterable

from tabulate import tabulate

from harness.report import facts
from harness.report.celltext import Shown, TextColumn
from harness.report.collect import TableData
from harness.report.grid import Grid, TextBlock, answered

FOLDED = ("memory", "tails and rates")
"""Blocks that a reader opens when wanted."""


class Markdown:
    """Layout for files and pull requests: tables are as wide as they are."""

    separator = "\n\n"

    def title(self, text: str) -> str:
        return f"## {_escaped(text)}"

    def table(self, table: TableData, grid: Grid) -> str:
        parts = [f"### {_escaped(f'{table.name}: {table.question}')}", _items(facts.above(table, grid.everywhere))]
        parts += [_block(grid, block) for block in grid.blocks]
        parts.append(_items(f"[{number}] {note}" for number, note in enumerate(grid.notes, 1)))
        parts.append(_items([facts.legend(table).replace("*", "bold:", 1), *facts.below(table)]))
        return "\n\n".join(part for part in parts if part)


def _block(grid: Grid, block: TextBlock) -> str:
    """A block's table, under its title, folded away when it explains rather than answers."""
    if block.title in FOLDED:
        return f"<details><summary>{block.title}</summary>\n\n{_table(grid, block)}\n\n</details>"
    return f"**{block.title}**\n\n{_table(grid, block)}" if block.title else _table(grid, block)


def _table(grid: Grid, block: TextBlock) -> str:
    columns = [*grid.labels, *block.columns]
    order = [index for group in answered(block.columns, grid.groups) for index in group]
    rows = [[_cell(column.cells[index]) for column in columns] for index in order]
    align = ["left"] * len(grid.labels) + ["right"] * len(block.columns)
    headers = [_header(column) for column in columns]
    return tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)


def _header(column: TextColumn) -> str:
    return _escaped(f"{column.header}, {column.unit}" if column.unit else column.header)


def _cell(cell: Shown) -> str:
    first, *others = [_escaped(part) for part in cell.parts if part]
    return " ".join([f"**{first}**" if cell.best else first, *others])


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """Characters that would end a cell or start markup."""
    for character in "\\|*<>":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
