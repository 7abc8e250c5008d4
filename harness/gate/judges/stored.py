"""Ratios between two stored runs. They were not taken in turn, so nothing cancels what the machine did in between.

Identical code measured twice on a shared machine has differed by 7 to 9% within 40 minutes, and no number of samples
inside a run shows that. So the interval from the runs' own processes or turns is widened by the suite's `drift` on both
sides: most answers are "inconclusive", and what is called a regression is one. `harness gate --against REF` measures
both sides in turn and needs no such allowance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from harness.gate.questions import Question
from harness.gate.rules import margins
from harness.gate.statistics.levels import MISS, POWER
from harness.gate.statistics.units import Units, disturbance, fewest, welch
from harness.gate.verdict import Evidence, Finding, Interval, Verdict
from harness.records.statistics import t_quantile
from harness.suite.schema import Gate, Relative, fraction

BEYOND_USE = 5.0
"""Logarithm of a ratio from which on "could have been shown" says nothing."""
UNPAIRED = "the two runs were not measured in turn, so {drift} of drift is allowed for; --against REF needs none"


@dataclass(frozen=True)
class StoredJudge:
    """Judges relative limits by processes or turns of two stored records."""

    gate: Gate
    accepted: Mapping[str, date]
    """Cell -> the day on which its baseline was accepted; empty when the base is a run."""
    today: date

    def judge(self, question: Question, alpha: float) -> Finding:
        """A verdict on one ratio; `alpha` bounds the chance of a false alarm where the drift stays below its limit."""
        assert isinstance(question.rule, Relative)
        old = self._too_old(question)
        if old:
            return question.finding(Verdict.INCOMPARABLE, timed=question.timed, reasons=[old])
        drift = math.log1p(fraction(self.gate.drift)) if question.timed else 0.0
        if any(value <= 0 for side in question.sides for value in side.samples):
            return question.finding(Verdict.INCONCLUSIVE, timed=question.timed, reasons=["a sample is 0: no ratio"])
        ratio = _Ratio.of(question, alpha, drift)
        disturbed = disturbances(question)
        verdict = Verdict.INCONCLUSIVE if disturbed else ratio.verdict(*margins(question.rule))
        unpaired = [UNPAIRED.format(drift=self.gate.drift)] if drift and verdict == Verdict.INCONCLUSIVE else []
        low, high = ratio.interval()
        return question.finding(
            verdict,
            scale="ratio",
            estimate=math.exp(ratio.middle),
            interval=Interval(low, high, 1 - 2 * MISS),
            evidence=ratio.evidence,
            timed=question.timed,
            seconds=sum(record.context.get("seconds", 0.0) for record in (question.pair.base, question.pair.new)),
            reasons=disturbed or unpaired,
        )

    def _too_old(self, question: Question) -> str | None:
        day = self.accepted.get(question.pair.base.cell)
        age = (self.today - day).days if day and question.timed else 0
        limit = self.gate.baseline_days
        return f"the baseline was accepted {age} days ago; times are good for {limit}" if age > limit else None


def disturbances(question: Question) -> list[str]:
    """What makes a time of either side no evidence; identical code has differed by a factor of two then."""
    if not question.timed:
        return []
    sides = {"base": question.pair.base, "new": question.pair.new}
    return [f"{side}: {reason}" for side, record in sides.items() if (reason := disturbance(record))]


@dataclass(frozen=True)
class _Ratio:
    """The logarithm of new over base, how far the truth may be from it, and which direction is worse."""

    middle: float
    sure: float
    """Reach of the bound that calls a regression or an improvement."""
    likely: float
    """Reach of the bound that passes."""
    evidence: Evidence
    lower_is_better: bool

    @classmethod
    def of(cls, question: Question, alpha: float, drift: float) -> _Ratio:
        """From the units of both records. A side with a single unit has an infinite interval."""
        base, new = (Units.of(record, question.metric) for record in (question.pair.base, question.pair.new))
        error, degrees = welch(base, new)
        sure, likely = (_reach(1 - level, degrees, error) + drift for level in (alpha, MISS))
        needed = sure + _reach(POWER, degrees, error)
        return cls(
            middle=new.mean - base.mean,
            sure=sure,
            likely=likely,
            evidence=fewest(base, new).evidence(math.expm1(needed) if needed < BEYOND_USE else None),
            lower_is_better=question.new.better == "lower",
        )

    def interval(self) -> tuple[float, float]:
        """The ratio's interval that `pass` goes by."""
        return math.exp(self.middle - self.likely), _exp(self.middle + self.likely)

    def verdict(self, tolerate: float, catch: float) -> Verdict:
        """Surely slower than tolerated; surely faster; likely not slow enough to matter; or open."""
        slower = self.middle if self.lower_is_better else -self.middle
        between = (math.log1p(tolerate) + math.log1p(catch)) / 2
        if slower - self.sure > math.log1p(tolerate) and slower > between:
            return Verdict.REGRESSION
        if slower + self.sure < -math.log1p(tolerate) and slower < -between:
            return Verdict.IMPROVEMENT
        passes = slower <= between and slower + self.likely < math.log1p(catch)
        return Verdict.PASS if passes else Verdict.INCONCLUSIVE


def _reach(level: float, degrees: float, error: float) -> float:
    return t_quantile(level, degrees) * error if error else 0.0


def _exp(log_ratio: float) -> float:
    return math.exp(log_ratio) if log_ratio < 700 else math.inf
