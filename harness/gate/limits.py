"""Judges that need no pairing: what is deterministic is compared exactly, what is bounded is held to its bound."""

from __future__ import annotations

import math

from harness.gate.questions import Question
from harness.gate.turns import Turns, t_interval
from harness.gate.verdict import Evidence, Finding, Interval, Verdict
from harness.records.record import Metric
from harness.suite.schema import Absolute


def judge_exact(question: Question) -> Finding:
    """Equal values pass; any other is a regression, or an improvement where it is better."""
    change = _value(question.new) - _value(question.base)
    verdict = Verdict.PASS
    if change:
        gained = (change < 0) if question.new.better == "lower" else (change > 0)
        verdict = Verdict.IMPROVEMENT if gained and question.new.better != "neither" else Verdict.REGRESSION
    return question.finding(verdict, scale="difference", estimate=change)


def judge_absolute(question: Question, alpha: float) -> Finding:
    """The new value against its bounds; a value read off a clock has to keep or break them with its whole interval."""
    assert isinstance(question.rule, Absolute)
    value = _value(question.new)
    if not question.timed:
        verdict = Verdict.PASS if _within(value, value, question.rule) else Verdict.REGRESSION
        return question.finding(verdict, estimate=value, reasons=_before(question, verdict))
    turns = Turns.of(question.pair.new, question.metric)
    low, high = (value * math.exp(reach) for reach in t_interval(turns, alpha))
    verdict = _verdict(low, high, question.rule)
    return question.finding(
        verdict,
        estimate=value,
        interval=Interval(low, high, 1 - 2 * alpha),
        evidence=Evidence(len(turns.logs), "turns", 1, "processes"),
        timed=True,
        reasons=_before(question, verdict),
    )


def _value(metric: Metric | None) -> float:
    assert metric is not None, "a question has both sides, unless its limit is absolute"
    assert metric.value is not None, "questions are asked about values that are there"
    return metric.value


def _verdict(low: float, high: float, rule: Absolute) -> Verdict:
    if _within(low, high, rule):
        return Verdict.PASS
    outside = (rule.at_most is not None and low > rule.at_most) or (rule.at_least is not None and high < rule.at_least)
    return Verdict.REGRESSION if outside else Verdict.INCONCLUSIVE


def _within(low: float, high: float, rule: Absolute) -> bool:
    above = rule.at_least is None or low >= rule.at_least
    return above and (rule.at_most is None or high <= rule.at_most)


def _before(question: Question, verdict: Verdict) -> list[str]:
    """Whether a broken limit is news."""
    former = question.base.value if question.base and question.pair.base is not question.pair.new else None
    if verdict != Verdict.REGRESSION or former is None:
        return []
    assert isinstance(question.rule, Absolute)
    return ["the limit was kept before" if _within(former, former, question.rule) else "the base broke the limit too"]
