"""Two stored sides: what is joined, what is refused, what is a failure of the gate itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness.gate.compare import compare
from harness.gate.measured import open_run
from harness.gate.questions import Question
from harness.gate.verdict import STATUS, Finding, Verdict
from harness.records.metrics import withheld
from harness.records.record import Metric, Record, Status
from tests.gate.sides import DSA, MHA, MQA, documents, finding, judged, record, rules, run, scored

EXACT = {"metrics": "cache_bytes", "limit": "exact"}
ABSOLUTE = {"metrics": "kl", "limit": "absolute", "at_most": 0.1}


def cell(value: float = 100.0, metric: str = "cache_bytes", variant: Any = MHA, **more: Any) -> Record:
    return record("prefill", variant, {metric: [value]}, length=512, **more)


def test_exact_quantities_pass_only_when_equal(tmp_path: Path) -> None:
    base = run(tmp_path, [cell(), cell(variant=MQA), cell(variant=DSA)])
    new = run(tmp_path, [cell(), cell(101.0, variant=MQA), cell(99.0, variant=DSA)])
    report = judged(base, new, rules(EXACT))
    assert [finding(report, "cache_bytes", variant).verdict.value for variant in (MHA, MQA, DSA)] == [
        "pass", "regression", "improvement",
    ]  # fmt: skip
    assert report.exit_code == 1


@pytest.mark.parametrize(("new", "verdict"), [(0.05, Verdict.PASS), (0.1, Verdict.PASS), (0.2, Verdict.REGRESSION)])
def test_absolute_limits_judge_the_new_value(tmp_path: Path, new: float, verdict: Verdict) -> None:
    report = judged(run(tmp_path, [cell(0.05, "kl")]), run(tmp_path, [cell(new, "kl")]), rules(ABSOLUTE))
    assert finding(report, "kl").verdict == verdict


def test_a_limit_that_the_base_broke_too_is_still_broken(tmp_path: Path) -> None:
    report = judged(run(tmp_path, [cell(0.3, "kl")]), run(tmp_path, [cell(0.2, "kl")]), rules(ABSOLUTE))
    assert finding(report, "kl").verdict == Verdict.REGRESSION
    assert finding(report, "kl").reasons == ["the base broke the limit too"]


def test_a_new_cell_keeps_absolute_limits_and_is_listed(tmp_path: Path) -> None:
    both = [cell(0.01, "kl")]
    report = judged(run(tmp_path, both), run(tmp_path, [*both, cell(0.2, "kl", MQA)]), rules(ABSOLUTE))
    assert finding(report, "kl", MQA).verdict == Verdict.REGRESSION
    assert [one.cell for one in report.ungated] == [cell(variant=MQA).cell]


# --- nothing passes for want of a question ------------------------------------------------------------


def test_a_gate_that_compared_nothing_fails(tmp_path: Path) -> None:
    report = judged(run(tmp_path, [cell(variant=MQA)], [MQA]), run(tmp_path, [cell()], [MHA]), rules(EXACT))
    assert not report.findings
    assert any("nothing was compared" in problem for problem in report.problems)
    assert report.exit_code == 2


def test_a_rule_that_matched_nothing_fails(tmp_path: Path) -> None:
    side = run(tmp_path, [cell()])
    report = judged(side, side, rules(EXACT, ABSOLUTE))
    assert any("'kl' matched nothing" in problem for problem in report.problems)
    assert report.exit_code == 2


def test_a_missing_metric_fails(tmp_path: Path) -> None:
    base = run(tmp_path, [record("prefill", MHA, {"cache_bytes": [1.0], "weight_bytes": [2.0]}, length=8)])
    new = run(tmp_path, [record("prefill", MHA, {"weight_bytes": [2.0]}, length=8)])
    report = judged(base, new, rules({"metrics": ["cache_bytes", "weight_bytes"], "limit": "exact"}))
    assert finding(report, "cache_bytes").verdict == Verdict.BROKEN
    assert report.exit_code == 2


def test_a_cell_of_the_base_that_was_asked_for_and_has_no_record_fails(tmp_path: Path) -> None:
    report = judged(run(tmp_path, [cell(), cell(variant=MQA)]), run(tmp_path, [cell()], cells=2), rules(EXACT))
    assert finding(report, STATUS, MQA).verdict == Verdict.BROKEN
    assert report.exit_code == 2


def test_a_cell_that_only_left_out_is_listed_and_no_failure(tmp_path: Path) -> None:
    base = run(tmp_path, [cell(), cell(0.01, "kl", MQA)])
    new = run(tmp_path, [cell()], [MHA], command={"only": ["form=mha"]})
    report = judged(base, new, rules(EXACT, ABSOLUTE))
    assert report.exit_code == 0
    assert [one.reason for one in report.ungated] == ["not part of the new run"]
    assert any("'kl' matched nothing" in note for note in report.notes)


def test_the_chance_of_a_false_alarm_is_split_over_everything_judged(tmp_path: Path) -> None:
    timed = [record("prefill", variant, {"ttft": [1.0, 1.1]}, length=8) for variant in (MHA, MQA, DSA)]
    side = open_run(run(tmp_path, [*timed, cell(0.01, "kl")]))
    seen: list[float] = []

    def judge(question: Question, alpha: float) -> Finding:
        seen.append(alpha)
        return question.finding(Verdict.PASS)

    both = [{"metrics": "ttft", "limit": "relative"}, {"metrics": "ttft", "limit": "absolute", "at_most": 9}]
    by = rules(*both, ABSOLUTE, alpha=0.06)
    report = compare(side, side, by, "planted", "ref", relative=judge)
    assert seen == [0.01] * 3  # three ratios and three limits by the clock; the error is no matter of chance
    assert len(report.findings) == 7


def test_the_chance_of_a_false_alarm_is_split_over_scores_too(tmp_path: Path) -> None:
    """Eight losses in a row are proof enough for one score, and for one of a hundred they are not."""
    scores = {"base": [1.0] * 8 + [0.0] * 8, "new": [0.0] * 16}
    found = []
    for count in (1, 100):
        names = [f"score{number}" for number in range(count)]
        records = {
            side: replace(scored(given), metrics={name: Metric("fraction", given, "mean", "higher") for name in names})
            for side, given in scores.items()
        }
        folders = [
            run(tmp_path, [one], documents={one.cell: [
                {**document, "scores": dict.fromkeys(names, document["scores"]["acc"])}
                for document in documents(scores[side])
            ]})
            for side, one in records.items()
        ]  # fmt: skip
        found.append(judged(*folders, rules({"metrics": names, "limit": "points", "catch": 10})).findings[0].verdict)
    assert found == [Verdict.REGRESSION, Verdict.INCONCLUSIVE]


# --- how cells ended ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (Status.PASSED, Status.TIMEOUT, Verdict.REGRESSION),
        (Status.PASSED, Status.UNSUPPORTED, Verdict.REGRESSION),
        (Status.FAILED, Status.PASSED, Verdict.IMPROVEMENT),
        (Status.OOM, Status.FAILED, Verdict.INCOMPARABLE),
    ],
)
def test_a_status_that_changed_is_a_finding(tmp_path: Path, before: Status, now: Status, verdict: Verdict) -> None:
    other = cell(variant=MQA)
    base, new = cell(status=before, reasons=["r"]), cell(status=now, reasons=["why it ended"])
    report = judged(run(tmp_path, [base, other]), run(tmp_path, [new, other]), rules(EXACT))
    assert finding(report, STATUS).verdict == verdict
    assert now == Status.PASSED or "why it ended" in finding(report, STATUS).reasons[0]


def test_what_runs_on_neither_side_is_listed_with_its_reason(tmp_path: Path) -> None:
    gone = record("prefill", MQA, status=Status.UNSUPPORTED, reasons=["there is no GPU"], length=512)
    side = run(tmp_path, [cell(), gone])
    report = judged(side, side, rules(EXACT))
    assert report.exit_code == 0
    assert "there is no GPU" in report.ungated[0].reason


def test_a_failure_on_another_machine_is_nobodys_regression(tmp_path: Path) -> None:
    small = {"machine": {"cpu_model": "Planted CPU", "cpu_count": 2, "memory_bytes": 2**30, "device": "cpu"}}
    new = cell(status=Status.OOM, reasons=["killed"], context=small)
    report = judged(run(tmp_path, [cell()]), run(tmp_path, [new]), rules(EXACT))
    assert finding(report, STATUS).verdict == Verdict.INCOMPARABLE
    assert "memory bytes 24 GiB -> 1 GiB" in finding(report, STATUS).reasons


def test_withheld_on_both_sides_is_listed_on_one_incomparable(tmp_path: Path) -> None:
    hidden = replace(cell(), metrics={"cache_bytes": withheld("cache_bytes", "interpreted")})
    report = judged(run(tmp_path, [hidden]), run(tmp_path, [hidden]), rules(EXACT))
    assert "interpreted" in report.ungated[0].reason
    report = judged(run(tmp_path, [cell()]), run(tmp_path, [hidden]), rules(EXACT))
    assert finding(report, "cache_bytes").verdict == Verdict.INCOMPARABLE


# --- unlike sides -------------------------------------------------------------------------------------

UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "machine": ({"context": {"machine": {"cpu_model": "Other CPU"}}}, "cpu model Planted CPU -> Other CPU"),
    "threads": ({"context": {"threads": 2}}, "threads 1 -> 2"),
    "checkpoint": (
        {"checkpoint": {"name": "second", "sha256": "cd" * 32}},
        "checkpoint first (abababababab) -> second",
    ),
    "tokens": ({"context": {"prompt_tokens": 513}}, "prompt tokens 512 -> 513"),
    "precision": ({"context": {"matmul_precision": "high"}}, "matmul precision highest -> high"),
}
KNOWN = {"prompt_tokens": 512, "matmul_precision": "highest"}


@pytest.mark.parametrize("what", UNLIKE)
def test_unlike_sides_are_incomparable_and_the_difference_is_listed(tmp_path: Path, what: str) -> None:
    changes, text = UNLIKE[what]
    new = cell(**{"context": {**KNOWN, **changes.pop("context", {})}, **changes})
    report = judged(run(tmp_path, [cell(context=KNOWN)]), run(tmp_path, [new]), rules(EXACT))
    found = finding(report, "cache_bytes")
    assert found.verdict == Verdict.INCOMPARABLE
    assert any(text in reason for reason in found.reasons), found.reasons
    assert report.exit_code == 3


def test_a_rule_may_say_that_the_difference_is_the_question(tmp_path: Path) -> None:
    new = cell(context={"threads": 2})
    report = judged(run(tmp_path, [cell()]), run(tmp_path, [new]), rules({**EXACT, "across": "machine"}))
    assert finding(report, "cache_bytes").verdict == Verdict.PASS


def test_an_option_that_is_the_question_joins_unlike_cells(tmp_path: Path) -> None:
    bf16 = MHA.with_options({"precision": "bf16"})
    base, new = run(tmp_path, [cell()], [MHA]), run(tmp_path, [cell(50.0, variant=bf16)], [bf16])
    report = judged(base, new, rules({**EXACT, "across": "precision"}))
    assert finding(report, "cache_bytes", bf16).verdict == Verdict.IMPROVEMENT
    assert judged(base, new, rules(EXACT)).exit_code == 2


def test_an_arithmetic_that_is_real_on_one_side_only_is_a_difference(tmp_path: Path) -> None:
    base = replace(cell(), resolved={"attention": "triton"})
    new = replace(cell(), resolved={"attention": "triton (interpreted)"})
    report = judged(run(tmp_path, [base]), run(tmp_path, [new]), rules(EXACT))
    assert finding(report, "cache_bytes").verdict == Verdict.INCOMPARABLE


def test_other_software_is_listed_and_forbids_nothing(tmp_path: Path) -> None:
    base = run(tmp_path, [cell()])
    new = run(
        tmp_path, [cell()], versions={"python": "3.11.7", "torch": "9.9"}, git={"commit": "f" * 40, "dirty": True}
    )
    report = judged(base, new, rules(EXACT))
    assert report.exit_code == 0
    assert "torch 2.13.0 -> 9.9" in report.notes
    assert "commit 0123456789ab -> ffffffffffff with changes" in report.notes


def test_metrics_without_a_rule_are_named(tmp_path: Path) -> None:
    side = run(tmp_path, [record("prefill", MHA, {"cache_bytes": [1.0], "ttft": [2.0]}, length=8)])
    assert any("for want of a rule: ttft" in note for note in judged(side, side, rules(EXACT)).notes)


def test_cells_that_another_run_has_measured_are_told(tmp_path: Path) -> None:
    base, new = run(tmp_path, [cell()]), run(tmp_path, [cell(context={"carried_over": "planted-1"})])
    notes = judged(base, new, rules(EXACT)).notes
    assert f"1 cells of {new.path} were measured in planted-1" in notes
