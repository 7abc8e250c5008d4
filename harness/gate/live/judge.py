"""Verdicts on ratios from pairs of turns: the sequential test, put into findings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.gate.live.lane import Lane
from harness.gate.questions import Question
from harness.gate.rules import margins
from harness.gate.statistics.power import shown_by
from harness.gate.statistics.sequential import Decision, Design, Margins, decide, looks_at
from harness.gate.verdict import Evidence, Finding, Interval, Verdict
from harness.suite.schema import Relative

NO_RATIO = "a value is 0: no ratio"


@dataclass(frozen=True)
class LiveJudge:
    """Answers relative questions from lanes; what no lane has measured in turns is compared as it is."""

    lanes: Mapping[str, Lane]
    """Cell id -> its lane; both sides have the same cells."""
    alpha: float
    """Each question's share of the chance of a false alarm."""
    budget: float
    """Seconds of turns after which a lane is left undecided."""

    def decided(self, question: Question) -> bool:
        """Whether more pairs would change nothing."""
        lane = self._lane(question)
        return lane is None or self.settled(lane, question)

    def settled(self, lane: Lane, question: Question) -> bool:
        """The same for a given lane."""
        return not lane.alive or _without_ratio(lane, question) or self._decision(lane, question) is not None

    def judge(self, question: Question, _: float = 0.0) -> Finding:
        """The verdict that there is now, when nobody measures on. The share that was fixed at the start holds."""
        lane = self._lane(question)
        return self.ruled(lane, question) if lane else _as_it_is(question)

    def ruled(self, lane: Lane, question: Question) -> Finding:
        """The verdict on a question from a given lane."""
        decision = None if _without_ratio(lane, question) else self._decision(lane, question, final=True)
        if decision is None:
            return question.finding(Verdict.INCONCLUSIVE, timed=question.timed, reasons=[NO_RATIO])
        if decision.verdict == Verdict.INCONCLUSIVE and lane.seconds >= self.budget:
            decision = replace(decision, reason=f"{decision.reason}; its {self.budget:g} s of turns are spent")
        return _finding(
            question, decision, lane.seconds, shown_by(self._ratios(lane, question), self._design(lane, question))
        )

    def _decision(self, lane: Lane, question: Question, final: bool = False) -> Decision | None:
        """What the sequential test says; None while it wants more pairs."""
        return decide(self._ratios(lane, question), self._design(lane, question), final)

    def _ratios(self, lane: Lane, question: Question) -> list[list[float]]:
        """How much slower the new side was, pair by pair."""
        return lane.log_ratios(question.metric, question.new.better == "lower")

    def _design(self, lane: Lane, question: Question) -> Design:
        assert isinstance(question.rule, Relative)
        return Design(Margins(*margins(question.rule)), alpha=self.alpha, looks=looks_at(lane.pairs))

    def _lane(self, question: Question) -> Lane | None:
        """The lane that has measured both sides of the metric in turns."""
        lane = self.lanes.get(question.pair.new.cell)
        return lane if lane and lane.has(question.metric) else None


def _without_ratio(lane: Lane, question: Question) -> bool:
    return any(math.isnan(ratio) for visit in lane.log_ratios(question.metric, True) for ratio in visit)


def _finding(question: Question, decision: Decision, seconds: float, detectable: float | None) -> Finding:
    """A decision about being slower, as a finding about new over base."""
    effect = decision.effect
    ratio, low, high = effect.ratio, effect.low, effect.high
    if question.new.better == "higher":
        ratio, low, high = 1 / ratio, 1 / high, 1 / low if low else math.inf
    return question.finding(
        decision.verdict,
        scale="ratio",
        estimate=ratio,
        interval=Interval(low, high, 0.95),
        evidence=Evidence(effect.pairs, "pairs", effect.processes, "processes", detectable),
        timed=question.timed,
        seconds=round(seconds, 3),
        reasons=[decision.reason] if decision.verdict != Verdict.PASS else [],
    )


def _as_it_is(question: Question) -> Finding:
    """One value a side, which repeats itself, such as the size of a cache: no noise, so the tolerance is the limit."""
    assert isinstance(question.rule, Relative)
    base, new = question.base.value if question.base else None, question.new.value
    if not base or not new:
        return question.finding(Verdict.INCONCLUSIVE, timed=question.timed, reasons=[NO_RATIO])
    ratio, (tolerate, _) = new / base, margins(question.rule)
    worse = ratio if question.new.better == "lower" else 1 / ratio
    verdict = Verdict.PASS
    if abs(math.log(worse)) > math.log1p(tolerate):
        verdict = Verdict.REGRESSION if worse > 1 else Verdict.IMPROVEMENT
    return question.finding(verdict, scale="ratio", estimate=ratio, evidence=Evidence(1, "values"))
