"""Which cell of one side is held against which cell of the other, and every question that the rules ask of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.gate.comparable import Unlike, differences, unasked
from harness.gate.measured import Measured
from harness.gate.rules import Rules, describe, names
from harness.gate.verdict import STATUS, Finding, Ungated, Verdict
from harness.records.metrics import METRICS
from harness.records.record import Metric, Record, Status
from harness.suite.schema import Absolute, Rule
from harness.suite.variant import AXES

Axes = tuple[str, ...]
"""Axes whose option is the question, in the order of `AXES`."""


@dataclass(frozen=True)
class Pair:
    """One cell on both sides."""

    base: Record
    new: Record

    @cached_property
    def unlike(self) -> list[Unlike]:
        """What they differ in besides the code."""
        return differences(self.base, self.new)

    @property
    def both_passed(self) -> bool:
        """Whether both have numbers at all."""
        return self.base.status == Status.PASSED == self.new.status


@dataclass(frozen=True)
class Question:
    """One metric of one pair under one rule."""

    pair: Pair
    metric: str
    rule: Rule

    @property
    def base(self) -> Metric | None:
        """The former metric."""
        return self.pair.base.metrics.get(self.metric)

    @property
    def new(self) -> Metric:
        """The metric to judge."""
        return self.pair.new.metrics[self.metric]

    @property
    def sides(self) -> list[Metric]:
        """The metric on every side that has it."""
        return [side for side in (self.base, self.new) if side is not None]

    @property
    def unasked(self) -> list[str]:
        """Differences that forbid the comparison; an absolute limit compares with nothing."""
        return [] if isinstance(self.rule, Absolute) else unasked(self.pair.unlike, names(self.rule.across))

    @property
    def timed(self) -> bool:
        """Whether the metric is read off a clock."""
        return is_timed(self.metric)

    def finding(self, verdict: Verdict, **more: Any) -> Finding:
        """A finding on this question; `more` are further fields."""
        return Finding(
            cell=self.pair.new.cell,
            metric=self.metric,
            rule=describe(self.rule, self.new.unit),
            verdict=verdict,
            unit=self.new.unit,
            better=self.new.better,
            base=self.base.value if self.base else None,
            new=self.new.value,
            **more,
        )


@dataclass
class Agenda:
    """What is to be judged, and what needs no judge."""

    questions: list[Question] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """How cells ended, metrics that are missing, cells that are missing."""
    ungated: list[Ungated] = field(default_factory=list)


def is_timed(metric: str) -> bool:
    """Whether a metric of the project's table comes from a clock."""
    spec = METRICS.get(metric)
    return spec is not None and (spec.unit == "ms" or spec.unit.startswith("tokens/s"))


def agenda(base: Measured, new: Measured, rules: Rules) -> Agenda:
    """Every question of the rules; afterwards `rules.unmet` knows which rules never met a metric."""
    made = Agenda()
    joins = {axes: _join(base.records, new.records, axes) for axes in _axes_of(rules)}
    paired_base = {pair.base.cell for pairs in joins.values() for pair in pairs.values()}
    made.findings += [_gone(record) for record in base.records.values() if _lost(record, paired_base, new)]
    made.ungated += [
        Ungated(record.cell, "not part of the new run")
        for record in base.records.values()
        if record.cell not in paired_base and not new.asked_for(record)
    ]
    for cell, record in new.records.items():
        pairs = {axes: pairs[cell] for axes, pairs in joins.items() if cell in pairs}
        if not pairs:
            made.ungated.append(Ungated(cell, f"new: {base.side.name} does not have it"))
            _only_new(record, rules, made)
            continue
        _ask(pairs, rules, made)
    return made


def _lost(record: Record, paired: Iterable[str], new: Measured) -> bool:
    return record.cell not in paired and new.asked_for(record)


def _gone(record: Record) -> Finding:
    reason = "the new run was asked for this cell and has no record of it: it was interrupted, or the suite has changed"
    return Finding(record.cell, STATUS, "every cell of the base", Verdict.BROKEN, reasons=[reason])


# --- joining ------------------------------------------------------------------------------------------


def _axes_of(rules: Rules) -> list[Axes]:
    """Every way in which some rule wants cells joined; by exact name first."""
    return list(dict.fromkeys([(), *(_axes(rule) for rule in rules.gate.rules)]))


def _axes(rule: Rule) -> Axes:
    return tuple(axis for axis in AXES if axis in names(rule.across))


def _join(base: Mapping[str, Record], new: Mapping[str, Record], axes: Axes) -> dict[str, Pair]:
    """New cell id -> pair. Cells meet when they are equal but for `axes`, if that leaves one on each side."""
    if not axes:
        return {cell: Pair(base[cell], record) for cell, record in new.items() if cell in base}
    former, present = _grouped(base.values(), axes), _grouped(new.values(), axes)
    return {
        records[0].cell: Pair(former[key][0], records[0])
        for key, records in present.items()
        if len(records) == 1 == len(former.get(key, ()))
    }


def _grouped(records: Iterable[Record], axes: Axes) -> dict[tuple[str, str], list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        blank = record.variant.with_options(dict.fromkeys(axes, "*"))
        groups.setdefault((record.cell.rpartition(":")[0], blank.id), []).append(record)
    return groups


# --- asking -------------------------------------------------------------------------------------------


def _ask(pairs: Mapping[Axes, Pair], rules: Rules, made: Agenda) -> None:
    """All questions about one new cell."""
    first = next(iter(pairs.values()))
    status = _status(first)
    if status is not None:
        made.findings.append(status) if isinstance(status, Finding) else made.ungated.append(status)
        _meet(first, rules)
        return
    for metric in dict.fromkeys([*first.new.metrics, *first.base.metrics]):
        for rule in rules.of(first.new, metric):
            if _axes(rule) in pairs:
                _ask_metric(pairs[_axes(rule)], metric, rule, made)


def _ask_metric(pair: Pair, metric: str, rule: Rule, made: Agenda) -> None:
    base, new = pair.base.metrics.get(metric), pair.new.metrics.get(metric)
    cell, limit = pair.new.cell, describe(rule)
    if new is None and base is not None and base.value is not None:
        reason = "the base has this metric, the new run does not"
        made.findings.append(Finding(cell, metric, limit, Verdict.BROKEN, base=base.value, reasons=[reason]))
    elif new is None:
        made.ungated.append(Ungated(cell, "neither side gives it", metric))
    elif new.withheld is not None:
        if base is None or base.withheld is not None:
            made.ungated.append(Ungated(cell, f"withheld: {new.withheld}", metric))
        else:
            reasons = [f"withheld now: {new.withheld}"]
            made.findings.append(Finding(cell, metric, limit, Verdict.INCOMPARABLE, base=base.value, reasons=reasons))
    elif not isinstance(rule, Absolute) and (base is None or base.value is None):
        reason = f"the base withheld it: {base.withheld}" if base else "new: the base does not have this metric"
        made.ungated.append(Ungated(cell, reason, metric))
    else:
        made.questions.append(Question(pair, metric, rule))


def _only_new(record: Record, rules: Rules, made: Agenda) -> None:
    """A cell without a counterpart still has to keep absolute limits."""
    for metric, value in record.metrics.items():
        for rule in rules.of(record, metric):
            if isinstance(rule, Absolute) and value.value is not None:
                made.questions.append(Question(Pair(record, record), metric, rule))


def _meet(pair: Pair, rules: Rules) -> None:
    """Rules that would have judged a cell which failed have not been forgotten."""
    for metric in [*pair.new.metrics, *pair.base.metrics]:
        rules.of(pair.new, metric)


# --- how a cell ended ---------------------------------------------------------------------------------

UNAVAILABLE = (Status.UNSUPPORTED, Status.SKIPPED)


def _status(pair: Pair) -> Finding | Ungated | None:
    """None when both sides passed and there are numbers to compare."""
    if pair.both_passed:
        return None
    base, new = pair.base.status, pair.new.status
    text = f"{base.value} before, {new.value} now"
    reasons = [f"{text}: {'; '.join(pair.new.reasons or pair.base.reasons) or 'no reason was given'}"]
    if base in UNAVAILABLE and new in (*UNAVAILABLE, Status.PASSED):
        return Ungated(pair.new.cell, reasons[0])
    verdict = _status_verdict(pair)
    unlike = unasked(pair.unlike, ()) if verdict == Verdict.INCOMPARABLE else []
    return Finding(pair.new.cell, STATUS, "passes as before", verdict, reasons=reasons + unlike)


def _status_verdict(pair: Pair) -> Verdict:
    if pair.unlike or Status.PASSED not in (pair.base.status, pair.new.status):
        return Verdict.INCOMPARABLE
    return Verdict.IMPROVEMENT if pair.new.status == Status.PASSED else Verdict.REGRESSION


Judge = Callable[[Question, float], Finding]
"""Answers a question; the number is its share of the chance of a false alarm."""
