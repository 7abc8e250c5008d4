"""A report for a pull request: the worst first, what passed folded away, never longer than a comment may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.gate.output import labels
from harness.gate.output.terminal import Notes, control, sides, ungated
from harness.gate.verdict import GateReport, Verdict

LIMIT = 60_000
"""Characters: a comment may have 65,536, a job summary 1 MiB; beyond either the whole text is refused."""
ROOM_FOR_TAIL = 500


def text(report: GateReport) -> str:
    """The report as GitHub markdown of at most `LIMIT` characters; rows that do not fit are counted."""
    shown = labels.by_severity(one for one in report.findings if one.verdict != Verdict.PASS)
    passed = [one for one in report.findings if one.verdict == Verdict.PASS]
    names = labels.CellNames(finding.cell for finding in report.findings)
    notes = Notes()
    rows = [_row((*labels.row(one, names), notes.mark(one))) for one in shown]
    head, foot = _head(report), _foot(report, notes)
    room = LIMIT - len(head) - len(foot) - ROOM_FOR_TAIL
    table = _table(rows, room)
    folded = _folded([_row((*labels.row(one, names), "")) for one in passed], room - len(table))
    return _blocks(head, table, folded, foot)[:LIMIT] + "\n"


def _head(report: GateReport) -> str:
    return _blocks(
        f"### Gate: {report.outcome}",
        f"{_escaped(report.suite)}: {labels.counts(report)} (exit {report.exit_code})",
        _list(map(_escaped, sides(report))),
        _list(f"**problem**: {_escaped(problem)}" for problem in report.problems),
        _list(_escaped(control(one)) for one in report.controls),
    )[: LIMIT // 4]


def _foot(report: GateReport, notes: Notes) -> str:
    lines = [*notes.lines(), *ungated(report.ungated), *report.notes]
    return _list(map(_escaped, lines))[: LIMIT // 4]


def _table(rows: Sequence[str], room: int) -> str:
    """As many rows as there is room for, and how many were left out."""
    if not rows:
        return ""
    lines = [_row((*labels.HEADERS, "")), _row(["---"] * (len(labels.HEADERS) + 1))]
    for number, row in enumerate(rows):
        room -= len(row) + 1
        if room < 0:
            return "\n".join(lines) + f"\n\n{len(rows) - number} more rows do not fit here."
        lines.append(row)
    return "\n".join(lines)


def _folded(rows: Sequence[str], room: int) -> str:
    if not rows:
        return ""
    summary = f"<details><summary>{len(rows)} findings pass</summary>\n\n"
    return f"{summary}{_table(rows, room - len(summary))}\n\n</details>"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Text that cannot end a table cell, start a tag or mention somebody."""
    for character, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("@", "&#64;")):
        text = text.replace(character, instead)
    return " ".join(text.split())


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _blocks(*blocks: str) -> str:
    return "\n\n".join(block for block in blocks if block)
