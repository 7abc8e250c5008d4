"""Regressions that somebody has accepted for a while: exact cell and metric, a ceiling, a reason, an owner, an end.

A waiver is for a cost that is real and wanted, never for noise. It covers a regression up to its ceiling and until its
day; one that is expired, not needed any more, or names nothing is reported, and one that ends soon is announced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from harness.errors import UsageError
from harness.gate.verdict import STATUS, Finding, GateReport, Verdict
from harness.suite.document import read_document
from harness.suite.schema import Percent, Strict, fraction
from harness.suite.validate import convert

SOON = 14
"""Days before its end from which a waiver is announced."""
Text = Annotated[str, Meta(min_length=1)]


class Waiver(Strict, frozen=True):
    """One accepted regression."""

    suite: Text
    cell: Text
    """The whole id, as the JSON report gives it."""
    metric: Text
    ceiling: Percent | float
    """The largest loss that is covered: percent for a relative limit, points or the metric's unit for a difference,
    the value itself for an absolute limit."""
    reason: Text
    owner: Text
    expires: date
    """The last day on which it covers anything, written as text: '2027-03-01'."""
    issue: str = ""

    @property
    def text(self) -> str:
        """As reports show it."""
        issue = f", {self.issue}" if self.issue else ""
        return f"up to {self.ceiling} until {self.expires} ({self.owner}{issue}): {self.reason}"


class WaiverFile(Strict, frozen=True):
    """The content of a waivers file."""

    waivers: list[Waiver]


@dataclass(frozen=True)
class Placed:
    """A waiver and the line that gives it."""

    waiver: Waiver
    place: str


def read_waivers(path: Path) -> list[Placed]:
    """All waivers of a file. Raises UsageError naming the line of what is wrong, or of a second waiver of one thing."""
    document = read_document(path)
    placed = [
        Placed(waiver, document.where("waivers", index))
        for index, waiver in enumerate(convert(document, WaiverFile).waivers)
    ]
    first: dict[tuple[str, str, str], str] = {}
    for one in placed:
        key = (one.waiver.suite, one.waiver.cell, one.waiver.metric)
        if key in first:
            raise UsageError(
                f"a second waiver of {one.waiver.metric} in this cell; the first is {first[key]}", one.place
            )
        first[key] = one.place
    return placed


def apply_waivers(report: GateReport, waivers: Sequence[Placed], today: date) -> GateReport:
    """The report with covered regressions marked, and what is wrong with waivers among its notes and problems."""
    findings, notes, problems = list(report.findings), list(report.notes), list(report.problems)
    for placed in waivers:
        if placed.waiver.suite != report.suite:
            continue
        own = [index for index, one in enumerate(findings) if _names(placed.waiver, one)]
        fitting = [index for index in own if _fits(placed.waiver, findings[index])]
        if own and not fitting:
            problems.append(f"{placed.place}: {_misfit(placed.waiver, findings[own[0]])}")
        else:
            notes += [
                f"{placed.place}: {note}" for note in _notes(placed.waiver, [findings[i] for i in fitting], today)
            ]
        for index in fitting:
            findings[index] = _applied(placed.waiver, findings[index], today)
    return replace(report, findings=findings, notes=notes, problems=problems)


def _names(waiver: Waiver, finding: Finding) -> bool:
    return (waiver.cell, waiver.metric) == (finding.cell, finding.metric)


def _fits(waiver: Waiver, finding: Finding) -> bool:
    """Percent for ratios, numbers for the rest; a finding without an estimate has no size to fit."""
    if finding.estimate is None:
        return finding.metric != STATUS
    return (finding.scale == "ratio") == isinstance(waiver.ceiling, str)


def _misfit(waiver: Waiver, finding: Finding) -> str:
    if finding.metric == STATUS:
        return "a cell that does not pass has no size, so nothing can waive it"
    wanted = "a percentage such as 8%" if finding.scale == "ratio" else f"a number for the limit {finding.rule!r}"
    return f"the waiver's ceiling is {waiver.ceiling}; it has to be {wanted}"


def _applied(waiver: Waiver, finding: Finding, today: date) -> Finding:
    if finding.verdict != Verdict.REGRESSION or waiver.expires < today:
        return finding
    if not _within(waiver, finding):
        return replace(finding, reasons=[*finding.reasons, f"worse than its waiver covers: {waiver.text}"])
    return replace(finding, waiver=waiver.text)


def _within(waiver: Waiver, finding: Finding) -> bool:
    """Whether the estimated loss is at most the ceiling, in the ceiling's own terms."""
    if isinstance(waiver.ceiling, str):
        return (finding.worse_by or 0.0) <= fraction(waiver.ceiling)
    if finding.scale == "value":
        value = finding.estimate or 0.0
        return value >= waiver.ceiling if finding.better == "higher" else value <= waiver.ceiling
    size = 0.01 if finding.unit == "fraction" else 1.0
    loss = finding.worse_by if finding.better != "neither" else abs(finding.estimate or 0.0)
    return (loss or 0.0) <= waiver.ceiling * size


def _notes(waiver: Waiver, findings: Sequence[Finding], today: date) -> list[str]:
    """What a reader should know about a waiver that is written rightly."""
    about = f"the waiver of {waiver.metric} in {waiver.cell}"
    if not findings:
        return [f"{about} is stale: this report has no such finding"]
    needed = any(finding.verdict == Verdict.REGRESSION for finding in findings)
    left = (waiver.expires - today).days
    if left < 0:
        return [f"{about} expired on {waiver.expires}" + ("" if needed else " and is not needed any more")]
    notes = [] if needed else [f"{about} is unused: there is no regression"]
    return notes + ([f"{about} expires in {left} days, on {waiver.expires}"] if left <= SOON else [])
