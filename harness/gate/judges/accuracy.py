"""Scores of documents, judged on the same documents: never by two independent errors, never "pass" for want of proof.

`pass` says that a loss of `catch` has been ruled out; `regression` that a loss is proven, and nearer to `catch` than to
`tolerate`. The log-loss of the right answer moves long before an answer flips, so it stands beside every verdict as a
second witness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness.errors import UsageError
from harness.gate.measured import Documents
from harness.gate.questions import Question
from harness.gate.rules import margins
from harness.gate.statistics.levels import MISS
from harness.gate.statistics.paired import Loss, binary_loss, documents_needed, mean_loss
from harness.gate.verdict import Evidence, Finding, Interval, Verdict
from harness.records.joined import Joined, Losses, NotTheSameError
from harness.records.paired import design_effect, score_bounds
from harness.records.record import Record
from harness.suite.schema import Difference, Points

WITNESS = "log_loss"


class DocumentJudge:
    """Judges rules over documents. Each record's documents are read once."""

    def __init__(self, base: Documents, new: Documents) -> None:
        self.base = _remembering(base)
        self.new = _remembering(new)

    def judge(self, question: Question, alpha: float) -> Finding:
        """A verdict on one score; `alpha` bounds the chance of calling an unchanged one worse.

        Raises UsageError when the documents of a record cannot be read.
        """
        try:
            joined = Joined.of(self.base(question.pair.base), self.new(question.pair.new))
            losses = joined.losses(question.metric, question.new.better == "higher")
        except NotTheSameError as reason:
            return question.finding(Verdict.INCOMPARABLE, scale="difference", reasons=[str(reason)])
        if joined.same_computation:
            return _unchanged(question, losses)
        assert isinstance(question.rule, Points | Difference)
        loss = estimate(losses, alpha)
        tolerate, catch = margins(question.rule)
        verdict = decide(loss, tolerate, catch, alpha)
        reasons = [*_flips(losses, joined), *_witness(question.metric, joined), *_missing(verdict, loss, catch, alpha)]
        return _finding(question, verdict, losses, loss, reasons)


def estimate(losses: Losses, alpha: float) -> Loss:
    """The loss with its bounds: exact McNemar for right or wrong, sign-flipping for scores and clustered documents.

    Bounds on clustered right or wrong answers are those of a smaller sample of independent documents: sign-flipping
    takes a dozen documents of which none has changed for proof that none ever will.
    """
    if losses.right_or_wrong and not losses.clustered:
        return binary_loss(losses.lost, losses.gained, len(losses.values), alpha, MISS)
    loss = mean_loss(*losses.by_unit(), alpha=alpha, miss=MISS)
    if not losses.right_or_wrong:
        return loss
    worth = 1 / design_effect(losses.values, losses.units)
    low, high = score_bounds(losses.lost * worth, losses.gained * worth, len(losses.values) * worth, MISS)
    return replace(loss, low=low, high=high, variance=max(loss.variance, 1 / len(losses.values)))


def decide(loss: Loss, tolerate: float, catch: float, alpha: float) -> Verdict:
    """The verdict. None is called worse below the middle of the margins, and none passes above it."""
    middle = (tolerate + catch) / 2
    if loss.estimate > middle:
        proven = loss.p_worse <= alpha and (not tolerate or loss.low > tolerate)
        return Verdict.REGRESSION if proven else Verdict.INCONCLUSIVE
    if loss.p_better <= alpha and -loss.estimate > middle:
        return Verdict.IMPROVEMENT
    return Verdict.PASS if loss.high < catch else Verdict.INCONCLUSIVE


def _finding(question: Question, verdict: Verdict, losses: Losses, loss: Loss, reasons: list[str]) -> Finding:
    """Losses are turned back into new less base, as the reader sees the values."""
    sign = -1.0 if question.new.better == "higher" else 1.0
    low, high = sorted((sign * loss.low, sign * loss.high))
    return question.finding(
        verdict,
        scale="difference",
        estimate=sign * loss.estimate,
        interval=Interval(low, high, 1 - 2 * MISS),
        evidence=_evidence(losses, loss.detectable),
        reasons=reasons,
    )


def _evidence(losses: Losses, detectable: float | None) -> Evidence:
    clusters = len(set(losses.units)) if losses.clustered else None
    return Evidence(len(losses.values), "documents", clusters, "clusters" if clusters else None, detectable)


def _unchanged(question: Question, losses: Losses) -> Finding:
    """Bit-equal log-likelihoods: the two sides compute the same function of these documents, whatever their number."""
    return question.finding(
        Verdict.PASS,
        scale="difference",
        estimate=0.0,
        interval=Interval(0.0, 0.0, 1.0),
        evidence=_evidence(losses, None),
        reasons=["every log-likelihood is bit for bit the same"],
    )


# --- reasons ------------------------------------------------------------------------------------------


def _flips(losses: Losses, joined: Joined) -> list[str]:
    """How many documents changed, in either direction."""
    if not losses.right_or_wrong:
        return []
    changed = joined.answers_changed
    answers = f"; {changed} answers differ" if changed is not None else ""
    return [f"{losses.lost} documents lost, {losses.gained} gained of {len(losses.values)}{answers}"]


def _witness(metric: str, joined: Joined) -> list[str]:
    """What the log-loss says, for tasks that have one."""
    if metric == WITNESS:
        return []
    try:
        losses = joined.losses(WITNESS, higher_is_better=False)
    except NotTheSameError:
        return []
    loss = mean_loss(*losses.by_unit(), alpha=MISS, miss=MISS)
    word = "worse" if loss.low > 0 else "better" if loss.high < 0 else "no difference shown"
    return [f"log-loss {loss.estimate:+.3g} nats a document [{loss.low:+.3g}, {loss.high:+.3g}]: {word}"]


def _missing(verdict: Verdict, loss: Loss, catch: float, alpha: float) -> list[str]:
    """How many documents would have decided."""
    if verdict != Verdict.INCONCLUSIVE:
        return []
    needed = documents_needed(loss.variance, catch, alpha, MISS)
    return [f"about {needed:,} documents would decide between no loss and one of the margin"]


def _remembering(read: Documents) -> Documents:
    """The same, reading each record's file once; a missing or broken one is an error that names it."""
    known: dict[str, list[dict[str, Any]]] = {}

    def documents(record: Record) -> list[dict[str, Any]]:
        if record.cell not in known:
            known[record.cell] = _guarded(read, record)
        return known[record.cell]

    return documents


def _guarded(read: Callable[[Record], list[dict[str, Any]]], record: Record) -> list[dict[str, Any]]:
    import msgspec

    try:
        return read(record)
    except OSError as error:
        raise UsageError(f"per-document results cannot be read: {error.strerror}", str(error.filename)) from None
    except msgspec.DecodeError as error:
        raise UsageError(f"per-document results are broken: {error}", record.samples_file) from None
