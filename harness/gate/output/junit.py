"""JUnit XML, for every CI that shows test results: one test case a finding.

`failure` is a regression, `error` a broken instrument, `skipped` whatever has no answer or is waived; figures are
properties.
"""

from __future__ import annotations

from xml.etree import ElementTree as ET

from harness.gate.output import labels
from harness.gate.output.labels import CellName
from harness.gate.verdict import Control, Finding, GateReport, Verdict


def text(report: GateReport) -> str:
    """The document, one suite a table, then the controls, the problems of the gate itself and its outcome."""
    root = ET.Element("testsuites", name=_clean(f"harness gate {report.suite}"))
    tables = dict.fromkeys(CellName.of(finding.cell).table for finding in report.findings)
    for table in tables:
        own = [finding for finding in report.findings if CellName.of(finding.cell).table == table]
        _suite(root, f"{report.suite}.{table}", [_case(finding, report) for finding in own])
    _suite(root, f"{report.suite}.controls", [_control(control, report) for control in report.controls])
    _suite(root, f"{report.suite}.gate", [*(_problem(problem, report) for problem in report.problems), _whole(report)])
    _total(root)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, name: str, cases: list[ET.Element]) -> None:
    if not cases:
        return
    suite = ET.SubElement(root, "testsuite", name=_clean(name), tests=str(len(cases)))
    for kind, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(key, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")
    suite.extend(cases)


def _total(root: ET.Element) -> None:
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, 0)) for suite in root)))


def _case(finding: Finding, report: GateReport) -> ET.Element:
    table, _, rest = finding.cell.partition(":")
    own_limit = " limit" if finding.scale == "value" and finding.estimate is not None else ""
    case = _named(f"{report.suite}.{table}", f"{rest} {finding.metric}{own_limit}", finding.seconds)
    _properties(case, finding)
    kind = _kind(finding, report)
    if kind:
        _outcome(case, kind, _message(finding), labels.reasons(finding))
    return case


def _kind(finding: Finding, report: GateReport) -> str | None:
    """The element that says how a finding ended; none for what is well."""
    if finding.verdict == Verdict.BROKEN:
        return "error"
    if finding in report.regressions:
        return "failure"
    if finding.verdict in (Verdict.PASS, Verdict.IMPROVEMENT):
        return None
    return _open(report) if finding.counts else "skipped"


def _open(report: GateReport) -> str | None:
    """What an open question is worth under the report's policy."""
    return {None: "skipped", "pass": "skipped", "fail": "failure"}[report.inconclusive]


def _control(control: Control, report: GateReport) -> ET.Element:
    case = _named(f"{report.suite}.controls", control.name, control.finding.seconds)
    _properties(case, control.finding)
    kind = None if control.holds else _open(report)
    if kind:
        seen, expected = control.finding.verdict.value, control.expected.value
        _outcome(case, kind, f"{seen} in place of {expected}: the machine is unfit", control.finding.reasons)
    return case


def _problem(problem: str, report: GateReport) -> ET.Element:
    case = _named(f"{report.suite}.gate", problem, 0.0)
    _outcome(case, "error", problem, [])
    return case


def _whole(report: GateReport) -> ET.Element:
    """The outcome, so that a report without a single finding is no empty success."""
    case = _named(f"{report.suite}.gate", "outcome", 0.0)
    kinds = {"broken": "error", "regression": "failure", "pass": None}
    kind = kinds.get(report.outcome, _open(report))
    if kind:
        _outcome(case, kind, labels.headline(report), [])
    return case


def _named(classname: str, name: str, seconds: float) -> ET.Element:
    return ET.Element("testcase", classname=_clean(classname), name=_clean(name), time=f"{seconds:.3f}")


def _message(finding: Finding) -> str:
    base, new = labels.values(finding)
    figures = f"{base} -> {new} {labels.change(finding)}".strip()
    return f"{labels.word(finding)}: {figures}; {finding.rule}"


def _outcome(case: ET.Element, kind: str, message: str, lines: list[str]) -> None:
    element = ET.SubElement(case, kind, message=_clean(message))
    if kind != "skipped":
        element.set("type", kind)
    element.text = _clean("\n".join(lines))


def _properties(case: ET.Element, finding: Finding) -> None:
    given = {
        "verdict": finding.verdict.value,
        "rule": finding.rule,
        "unit": finding.unit,
        "base": finding.base,
        "new": finding.new,
        finding.scale: finding.estimate,
        "interval": _interval(finding),
        "evidence": labels.evidence(finding),
        "detectable": finding.evidence.detectable if finding.evidence else None,
        "waiver": finding.waiver,
    }
    properties = ET.SubElement(case, "properties")
    for name, value in given.items():
        if value is not None and value != "":
            ET.SubElement(properties, "property", name=name, value=_clean(str(value)))


def _interval(finding: Finding) -> str:
    given = finding.interval
    return f"[{given.low}, {given.high}] at {given.confidence:.6g}" if given and given.bounded else ""


def _clean(text: str) -> str:
    return labels.printable(text)
