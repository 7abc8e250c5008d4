"""GitHub annotations: workflow commands that the runner reads off a step's output.

The runner shows ten errors, ten warnings and ten notices a step and drops the rest without a word, so the worst come
first and the last one says how many there are more.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.gate.output import labels
from harness.gate.output.terminal import control
from harness.gate.verdict import Finding, GateReport, Verdict

SHOWN = 10
"""Annotations of one kind that a step may show."""


def text(report: GateReport) -> str:
    """One line an annotation; empty when there is nothing to say."""
    names = labels.CellNames(finding.cell for finding in report.findings)
    findings = labels.by_severity(report.findings)
    errors = [("gate", problem) for problem in report.problems]
    errors += [_said(one, names) for one in findings if one.verdict == Verdict.BROKEN or one in report.regressions]
    warnings = [("control", control(one)) for one in report.controls if not one.holds]
    warnings += [_said(one, names) for one in findings if _is_open(one, report)]
    notices = [_said(one, names) for one in findings if one.verdict == Verdict.IMPROVEMENT or not one.counts]
    notices += [("gate", note) for note in report.notes]
    lines = [*_lines("error", errors), *_lines("warning", warnings), *_lines("notice", notices)]
    return "\n".join(lines)


def _is_open(finding: Finding, report: GateReport) -> bool:
    """No answer, or one that an unfit machine discredits."""
    if finding.verdict in (Verdict.INCONCLUSIVE, Verdict.INCOMPARABLE):
        return True
    return finding.verdict == Verdict.REGRESSION and finding.counts and finding not in report.regressions


def _said(finding: Finding, names: labels.CellNames) -> tuple[str, str]:
    base, new = labels.values(finding)
    title = f"{labels.word(finding)}: {finding.metric}"
    figures = f"{names.short(finding.cell)}: {base} -> {new} {labels.change(finding)}".rstrip()
    return title, "; ".join([f"{figures} ({finding.rule})", *labels.reasons(finding)])


def _lines(kind: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    kept = list(entries) if len(entries) <= SHOWN else list(entries[: SHOWN - 1])
    if len(entries) > SHOWN:
        kept.append((f"more {kind}s", f"{len(entries) - len(kept)} more; the report lists all of them"))
    return [f"::{kind} title={_property(title)}::{_data(message)}" for title, message in kept]


def _data(text: str) -> str:
    """Escaped as a workflow command's message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escaped as a workflow command's property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
