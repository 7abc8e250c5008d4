"""A report for people at a terminal: the outcome, what is not right, and what was not looked at."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from harness.gate.output import labels
from harness.gate.verdict import Control, Finding, GateReport, Side, Ungated, Verdict

UNGATED_SHOWN = 8


def text(report: GateReport, everything: bool = False) -> str:
    """The whole report; passes are counted, and listed only when `everything` is asked for."""
    shown = labels.by_severity(one for one in report.findings if everything or one.verdict != Verdict.PASS)
    notes = Notes()
    parts = [
        "\n".join([labels.headline(report), *sides(report)]),
        "\n".join(f"problem: {problem}" for problem in report.problems),
        "\n".join(map(control, report.controls)),
        _table(report, shown, notes),
        "\n".join(notes.lines()),
        _hidden(report, shown),
        "\n".join(ungated(report.ungated)),
        "\n".join(f"note: {note}" for note in report.notes),
    ]
    return "\n\n".join(part for part in parts if part)


class Notes:
    """Reasons below the table; findings with the same reasons share a number."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def mark(self, finding: Finding) -> str:
        """`[n]`, or nothing for a finding without a reason."""
        text = "; ".join(labels.reasons(finding))
        return f"[{self._texts.setdefault(text, len(self._texts) + 1)}]" if text else ""

    def lines(self) -> list[str]:
        """Every note in the order of its number."""
        return [f"[{number}] {text}" for text, number in self._texts.items()]


def sides(report: GateReport) -> list[str]:
    """Where both sides come from."""
    return [f"{word}: {side(one)}" for word, one in (("base", report.base), ("new", report.new))]


def side(one: Side) -> str:
    """Name, commit, day and machine."""
    machine = one.machine.get("gpu_name") or one.machine.get("cpu_model", "")
    commit = f"commit {one.commit[:12]}{' with changes' if one.dirty else ''}" if one.commit else ""
    return ", ".join(part for part in (one.name, commit, one.started[:16].replace("T", " "), machine) if part)


def control(one: Control) -> str:
    """Whether the gate saw what is known to be there."""
    seen = "" if one.holds else f", not {one.expected.value}: times measured now cannot be believed"
    return f"control {one.name}: {one.finding.verdict.value}{seen} {labels.change(one.finding)}".rstrip()


def ungated(entries: Sequence[Ungated]) -> list[str]:
    """What no verdict was given on, by reason."""
    grouped: dict[str, list[Ungated]] = {}
    for entry in entries:
        grouped.setdefault(entry.reason, []).append(entry)
    names = labels.CellNames(entry.cell for entry in entries)
    lines = []
    for reason, same in grouped.items():
        cells = [f"{names.short(entry.cell)} {entry.metric or ''}".strip() for entry in same[:UNGATED_SHOWN]]
        more = f" and {len(same) - UNGATED_SHOWN} more" if len(same) > UNGATED_SHOWN else ""
        lines.append(f"not gated ({reason}): {', '.join(cells)}{more}")
    return lines


def _table(report: GateReport, shown: Sequence[Finding], notes: Notes) -> str:
    if not shown:
        return ""
    names = labels.CellNames(finding.cell for finding in report.findings)
    rows = [(*labels.row(finding, names), notes.mark(finding)) for finding in shown]
    return tabulate(rows, (*labels.HEADERS, ""), tablefmt="simple", disable_numparse=True)


def _hidden(report: GateReport, shown: Sequence[Finding]) -> str:
    hidden = len(report.findings) - len(shown)
    return f"{hidden} findings that pass are not listed; --all lists them" if hidden else ""
