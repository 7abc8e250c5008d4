"""Judges that need no pairing: what is deterministic is compared exactly, what is bounded is held to its bound."""

from __future__ import annotations

import math

from harness.gate.questions import Question
from harness.gate.statistics.levels import MISS
from harness.gate.statistics.units import Units, disturbance, reach
from harness.gate.verdict import Finding, Interval, Verdict
from harness.records.record import Metric
from harness.suite.schema import Absolute

LARGEST = 700.0
"""Logarithm of the largest factor that a float holds; beyond it a bound says nothing anyway."""


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
    units = Units.of(question.pair.new, question.metric)
    sure, likely = (_spanned(value, reach(units, 1 - level)) for level in (alpha, MISS))
    verdict = _verdict(sure, likely, question.rule)
    disturbed = None if _kept_at_worst(question, verdict) else disturbance(question.pair.new)
    verdict = Verdict.INCONCLUSIVE if disturbed else verdict
    return question.finding(
        verdict,
        estimate=value,
        interval=Interval(*likely, 1 - 2 * MISS),
        evidence=units.evidence(),
        timed=True,
        reasons=[disturbed] if disturbed else _before(question, verdict),
    )


def _spanned(value: float, distance: float) -> tuple[float, float]:
    return value * math.exp(-distance), value * math.exp(min(distance, LARGEST))


def _value(metric: Metric | None) -> float:
    assert metric is not None, "a question has both sides, unless its limit is absolute"
    assert metric.value is not None, "questions are asked about values that are there"
    return metric.value


def _verdict(sure: tuple[float, float], likely: tuple[float, float], rule: Absolute) -> Verdict:
    """Within its bounds by the interval that passes, or beyond one by the interval that calls."""
    if _within(*likely, rule):
        return Verdict.PASS
    low, high = sure
    outside = (rule.at_most is not None and low > rule.at_most) or (rule.at_least is not None and high < rule.at_least)
    return Verdict.REGRESSION if outside else Verdict.INCONCLUSIVE


def _kept_at_worst(question: Question, verdict: Verdict) -> bool:
    """Whether a limit is kept that neighbours can only make harder to keep: they never make anything faster."""
    assert isinstance(question.rule, Absolute)
    other_bound = question.rule.at_least if question.new.better == "lower" else question.rule.at_most
    return verdict == Verdict.PASS and other_bound is None


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
