"""How findings read: short names of cells, values in one unit, changes with their interval, the worst first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.gate.verdict import Finding, GateReport, Verdict
from harness.records.metrics import METRICS
from harness.report.numbers import number, quantity, unit_for
from harness.suite.variant import AXES

SEVERITY = (
    Verdict.BROKEN,
    Verdict.REGRESSION,
    Verdict.INCOMPARABLE,
    Verdict.INCONCLUSIVE,
    Verdict.IMPROVEMENT,
    Verdict.PASS,
)
UNBOUNDED = 10.0
"""A ratio's interval beyond this factor says nothing, so no figures are shown."""
_NOT_TEXT = re.compile("[^\\t\\n\\u0020-\\u007e\\u00a0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Control characters: a terminal would obey them, and XML 1.0 (section 2.2) has no place for them."""
ALWAYS = ("length", "tasks")
"""Workload keys that a short name has even when they are the same everywhere."""
HEADERS = ("verdict", "cell", "metric", "base", "new", "change", "limit", "from", "would show")


@dataclass(frozen=True)
class CellName:
    """A cell id taken apart: `table:kind[key=value,...]:variant`."""

    table: str
    kind: str
    keys: dict[str, str]
    variant: tuple[str, ...]

    @classmethod
    def of(cls, cell: str) -> CellName:
        """The parts; a text that is no cell id (a control's name) is all table."""
        table, _, rest = cell.partition(":")
        workload, _, variant = rest.rpartition(":")
        kind, _, keys = workload.removesuffix("]").partition("[")
        pairs = (pair.partition("=") for pair in keys.split(",") if pair)
        return cls(table, kind, {key: value for key, _, value in pairs}, tuple(variant.split("/")) if variant else ())


class CellNames:
    """Names as short as the cells of one report allow: what is the same in all of them is left out."""

    def __init__(self, cells: Iterable[str]) -> None:
        parsed = [CellName.of(cell) for cell in dict.fromkeys(cells)]
        self._tables = len({name.table for name in parsed}) > 1
        self._varying = _varying(parsed)
        variants = {name.variant for name in parsed if len(name.variant) == len(AXES)}
        self._axes = [index for index in range(len(AXES)) if len({variant[index] for variant in variants}) > 1]

    def short(self, cell: str) -> str:
        """Such as `decode length=512 mqa/dsa`."""
        name = CellName.of(cell)
        keys = [f"{key}={value}" for key, value in name.keys.items() if self._tells(name, key)]
        options = "/".join(name.variant[index] for index in self._axes) if len(name.variant) == len(AXES) else ""
        table = f"{name.table}:" if self._tables or not name.kind else ""
        return " ".join(part for part in (f"{table}{name.kind}", *keys, options) if part)

    def _tells(self, name: CellName, key: str) -> bool:
        return key in ALWAYS or (name.table, name.kind, key) in self._varying


def _varying(cells: Sequence[CellName]) -> set[tuple[str, str, str]]:
    """(table, kind, key) of every workload key that tells cells of one kind in one table apart."""
    alike: dict[tuple[str, str], list[CellName]] = {}
    for name in cells:
        alike.setdefault((name.table, name.kind), []).append(name)
    return {
        (table, kind, key)
        for (table, kind), names in alike.items()
        for key in {key for name in names for key in name.keys}
        if len({name.keys.get(key) for name in names}) > 1
    }


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first: what is broken, then regressions that count, the larger loss before the smaller."""

    def key(finding: Finding) -> tuple[int, bool, float]:
        return SEVERITY.index(finding.verdict), not finding.counts, -(finding.worse_by or 0.0)

    return sorted(findings, key=key)


def row(finding: Finding, names: CellNames) -> tuple[str, ...]:
    """One finding under `HEADERS`."""
    base, new = values(finding)
    spec = METRICS.get(finding.metric)
    return (
        word(finding),
        names.short(finding.cell),
        spec.header if spec else finding.metric,
        base,
        new,
        change(finding),
        finding.rule,
        evidence(finding),
        detectable(finding),
    )


def word(finding: Finding) -> str:
    """The verdict, and whether a waiver covers it."""
    return finding.verdict.value + ("" if finding.counts else " (waived)")


def values(finding: Finding) -> tuple[str, str]:
    """Base and new in one unit; a dash for what is not there."""
    known = [value for value in (finding.base, finding.new) if value is not None]
    unit, size = unit_for(finding.unit, known)
    texts = ["-" if value is None else f"{quantity(value / size, unit)} {unit}".rstrip()
             for value in (finding.base, finding.new)]  # fmt: skip
    return texts[0], texts[1]


def change(finding: Finding) -> str:
    """What changed, as the reader would say it: percent of a time, points of a share, units of anything else."""
    if finding.estimate is None or finding.scale == "value":
        return ""
    interval = finding.interval
    ends = [interval.low, interval.high] if interval is not None and interval.bounded else []
    if finding.scale == "ratio":
        useful = ends and (ends[1] or 0) < UNBOUNDED
        return _signed(100 * (finding.estimate - 1), [100 * ((end or 0) - 1) for end in ends] if useful else [], "%")
    unit, size = scaled_unit(finding)
    return _signed(finding.estimate / size, [(end or 0) / size for end in ends], f" {unit}".rstrip())


def scaled_unit(finding: Finding) -> tuple[str, float]:
    """The unit of a difference and its size: points for shares, else the unit in which the values are shown."""
    if finding.unit == "fraction":
        return "points", 0.01
    return unit_for(finding.unit, [value for value in (finding.base, finding.new) if value is not None])


def evidence(finding: Finding) -> str:
    """Such as `14 pairs, 3 processes`."""
    given = finding.evidence
    if given is None:
        return ""
    groups = f", {_counted(given.groups, given.group_unit or '')}" if given.groups else ""
    return _counted(given.count, given.unit) + groups


def detectable(finding: Finding) -> str:
    """The smallest loss that could have been shown."""
    smallest = finding.evidence.detectable if finding.evidence else None
    if smallest is None:
        return ""
    if finding.scale == "ratio":
        return f"{number(100 * smallest, 2)}%"
    unit, size = scaled_unit(finding)
    return f"{number(smallest / size, 2)} {unit}".rstrip()


def reasons(finding: Finding) -> list[str]:
    """Everything there is to say, the waiver first. Reasons may quote a worker, whose output may hold anything."""
    given = [*([f"waived: {finding.waiver}"] if finding.waiver else []), *finding.reasons]
    return [printable(reason) for reason in given]


def printable(text: str) -> str:
    """Text without control characters, its lines ended by newlines."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", "\n".join(text.splitlines()))


def counts(report: GateReport) -> str:
    """Such as `1 regression, 3 inconclusive, 40 pass`."""
    counted = report.counted
    return ", ".join(f"{counted[verdict]} {verdict.value}" for verdict in SEVERITY if counted[verdict]) or "no finding"


def headline(report: GateReport) -> str:
    """The outcome in one line."""
    return f"{report.outcome.upper()} (exit {report.exit_code}): {report.suite}: {counts(report)}"


def _counted(count: int, unit: str) -> str:
    """Units are plurals: `processes`, `pairs`."""
    singular = unit[:-2] if unit.endswith("sses") else unit.removesuffix("s")
    return f"{count:,} {singular if count == 1 else unit}"


def _signed(value: float, ends: list[float], unit: str) -> str:
    interval = f" [{', '.join(_short(end) for end in ends)}]" if ends else ""
    return f"{_short(value)}{unit}{interval}"


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:+.3g}" if abs(value) < 1000 else f"{value:+,.0f}"
