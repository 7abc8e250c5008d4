"""Exit codes: what is broken outranks a regression, a regression outranks what is open, waivers and unfitness count."""

from __future__ import annotations

import pytest

from harness.gate.verdict import Control, Finding, GateReport, Policy, Side, Verdict

PASS, REGRESSION, IMPROVEMENT, INCONCLUSIVE, INCOMPARABLE, BROKEN = Verdict


def found(verdict: Verdict, **more: object) -> Finding:
    return Finding("t:prefill[]:a", "ttft", "rule", verdict, **more)  # type: ignore[arg-type]


def report(*verdicts: Verdict, **more: object) -> GateReport:
    findings = [found(verdict) for verdict in verdicts]
    return GateReport("s", Side("a"), Side("b"), "runs", findings, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([PASS], 0),
        ([PASS, IMPROVEMENT], 0),
        ([PASS, INCONCLUSIVE], 3),
        ([PASS, INCOMPARABLE], 3),
        ([REGRESSION, INCONCLUSIVE, INCOMPARABLE, PASS], 1),
        ([BROKEN, REGRESSION, INCONCLUSIVE, PASS], 2),
        ([], 2),
    ],
)
def test_the_worst_decides(verdicts: list[Verdict], code: int) -> None:
    assert report(*verdicts).exit_code == code


def test_a_problem_of_the_gate_itself_outranks_everything() -> None:
    assert report(REGRESSION, problems=["a rule matched nothing"]).exit_code == 2


@pytest.mark.parametrize(("policy", "code"), [("pass", 0), ("fail", 1), (None, 3)])
def test_a_policy_says_what_open_questions_are_worth_and_nothing_else(policy: Policy | None, code: int) -> None:
    assert report(PASS, INCONCLUSIVE, inconclusive=policy).exit_code == code
    assert report(REGRESSION, inconclusive=policy).exit_code == 1
    assert report(BROKEN, inconclusive=policy).exit_code == 2
    assert report(PASS, inconclusive=policy).exit_code == 0


def test_a_waived_regression_does_not_fail() -> None:
    waived = found(REGRESSION, waiver="until then")
    assert GateReport("s", Side("a"), Side("b"), "runs", [waived, found(PASS)]).exit_code == 0


@pytest.mark.parametrize(("seen", "code"), [(PASS, 0), (INCONCLUSIVE, 3), (REGRESSION, 3)])
def test_a_control_with_the_wrong_verdict_makes_the_run_unfit(seen: Verdict, code: int) -> None:
    control = Control("A/A", PASS, found(seen))
    assert report(PASS, controls=[control]).exit_code == code


def test_an_unfit_machine_discredits_what_rests_on_a_clock_alone() -> None:
    control = Control("slow-down", REGRESSION, found(PASS))
    timed, exact = found(REGRESSION, timed=True), found(REGRESSION)
    by_clock = GateReport("s", Side("a"), Side("b"), "ref", [timed], [control])
    assert (by_clock.outcome, by_clock.exit_code) == ("unfit", 3)
    assert GateReport("s", Side("a"), Side("b"), "ref", [timed, exact], [control]).exit_code == 1


@pytest.mark.parametrize(
    ("better", "scale", "estimate", "loss"),
    [("lower", "ratio", 1.25, 0.25), ("higher", "ratio", 0.8, 0.25), ("lower", "difference", 0.5, 0.5),
     ("higher", "difference", 0.5, -0.5), ("neither", "difference", 0.5, None)],
)  # fmt: skip
def test_a_loss_is_positive_when_worse(better: str, scale: str, estimate: float, loss: float | None) -> None:
    worse_by = found(PASS, better=better, scale=scale, estimate=estimate).worse_by
    assert worse_by == (loss if loss is None else pytest.approx(loss))
