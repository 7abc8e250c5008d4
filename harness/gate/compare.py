"""Two measured sides and the rules of a suite make a report. Live and stored comparisons differ in one judge."""

from __future__ import annotations

from datetime import date
from typing import Literal

from harness.gate.comparable import listed
from harness.gate.judges import limits
from harness.gate.judges.accuracy import DocumentJudge
from harness.gate.judges.stored import StoredJudge
from harness.gate.measured import Measured
from harness.gate.questions import Agenda, Judge, Question, agenda
from harness.gate.rules import Rules, names
from harness.gate.verdict import Finding, GateReport, Verdict
from harness.suite.schema import Difference, Exact, Points, Relative

Mode = Literal["runs", "baseline", "ref"]
NAMED = 6
"""How many metrics without a rule are named before the rest is counted."""


def compare(
    base: Measured, new: Measured, rules: Rules, suite: str, mode: Mode, relative: Judge | None = None
) -> GateReport:
    """Judge every question that the rules ask of two sides.

    `relative` judges ratios; without it the sides are taken for stored runs, which no pairing protects from drift.
    Raises UsageError for documents that cannot be read.
    """
    asked = agenda(base, new, rules)
    judge = _Judges(base, new, rules, relative, asked).judge
    order = {cell: number for number, cell in enumerate(dict.fromkeys([*new.records, *base.records]))}
    findings = sorted([*asked.findings, *map(judge, asked.questions)], key=lambda one: order[one.cell])
    return GateReport(
        suite=suite,
        base=base.side,
        new=new.side,
        mode=mode,
        findings=findings,
        ungated=asked.ungated,
        problems=_problems(findings, new, rules),
        notes=[
            *listed(base.side, new.side),
            *_carried(base),
            *_carried(new),
            *_ruleless(new, rules),
            *_left_out(new, rules),
        ],
    )


class _Judges:
    """Who answers which question, with which share of the chance of a false alarm."""

    def __init__(self, base: Measured, new: Measured, rules: Rules, relative: Judge | None, asked: Agenda) -> None:
        gate = rules.gate
        self.relative = relative or StoredJudge(gate, base.accepted, date.today()).judge
        self.documents: Judge = DocumentJudge(base.documents, new.documents).judge
        over_documents = sum(_is_paired(question) for question in asked.questions)
        by_clock = sum(_is_noisy(question) for question in asked.questions)
        self.accuracy_alpha = gate.accuracy_alpha / max(1, over_documents)
        self.alpha = gate.alpha / max(1, by_clock)

    def judge(self, question: Question) -> Finding:
        """The answer to one question; unlike sides get none."""
        if question.unasked:
            return question.finding(Verdict.INCOMPARABLE, reasons=question.unasked)
        if isinstance(question.rule, Exact):
            return limits.judge_exact(question)
        if isinstance(question.rule, Relative):
            return self.relative(question, self.alpha)
        if _is_paired(question):
            return self.documents(question, self.accuracy_alpha)
        return limits.judge_absolute(question, self.alpha)


def _is_paired(question: Question) -> bool:
    return isinstance(question.rule, Points | Difference)


def _is_noisy(question: Question) -> bool:
    return isinstance(question.rule, Relative) or (question.timed and not isinstance(question.rule, Exact))


# --- what makes a gate worthless, and what a reader should know ---------------------------------------


def _problems(findings: list[Finding], new: Measured, rules: Rules) -> list[str]:
    problems = [] if findings else ["nothing was compared: no cell of the new run has a counterpart and a rule"]
    return problems if new.narrowed else problems + rules.unmet(_metrics(new))


def _left_out(new: Measured, rules: Rules) -> list[str]:
    """In a run that `--only` narrowed, rules for the other cells match nothing rightly."""
    return rules.unmet(_metrics(new)) if new.narrowed else []


def _carried(side: Measured) -> list[str]:
    """Cells that a run did not measure itself, because another run had."""
    runs = [str(record.context["carried_over"]) for record in side.records.values() if "carried_over" in record.context]
    return [f"{runs.count(name)} cells of {side.side.name} were measured in {name}" for name in dict.fromkeys(runs)]


def _metrics(side: Measured) -> list[str]:
    return list(dict.fromkeys(metric for record in side.records.values() for metric in record.metrics))


def _ruleless(new: Measured, rules: Rules) -> list[str]:
    """One line about the metrics that nobody gates."""
    gated = {metric for rule in rules.gate.rules for metric in names(rule.metrics)}
    free = [metric for metric in _metrics(new) if metric not in gated]
    more = f" and {len(free) - NAMED} more" if len(free) > NAMED else ""
    return [f"not gated, for want of a rule: {', '.join(free[:NAMED])}{more}"] if free else []
