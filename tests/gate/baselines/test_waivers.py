"""Waivers: exact, up to a ceiling, until a day; and none of them is ever silently useless."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import UsageError
from harness.gate.baselines.waivers import Waiver, apply_waivers, read_waivers
from harness.gate.verdict import Finding, GateReport, Side, Verdict

TODAY = date(2027, 1, 31)
CELL = "t:prefill[length=8]:native/mha/dense/fp32/latent/eager/plain"
GIVEN: dict[str, Any] = {
    "suite": "s",
    "cell": CELL,
    "metric": "ttft",
    "ceiling": "8%",
    "reason": "twice the keys",
    "owner": "ann",
    "expires": str(TODAY + timedelta(90)),
}
SLOWER = Finding(CELL, "ttft", "catch 5%", Verdict.REGRESSION, scale="ratio", estimate=1.06, timed=True)

WRONGER = Finding(CELL, "acc", "", Verdict.REGRESSION, "fraction", "higher", scale="difference", estimate=-0.03)


def applied(folder: Path, finding: Finding, **changes: Any) -> GateReport:
    path = folder / "waivers.yaml"
    path.write_text(yaml.safe_dump({"waivers": [{**GIVEN, **changes}]}))
    return apply_waivers(GateReport("s", Side("a"), Side("b"), "runs", [finding]), read_waivers(path), TODAY)


def test_a_covered_regression_does_not_fail_and_shows_its_waiver(tmp_path: Path) -> None:
    report = applied(tmp_path, SLOWER)
    assert report.exit_code == 0
    assert report.findings[0].verdict == Verdict.REGRESSION
    assert "ann" in str(report.findings[0].waiver)
    assert "twice the keys" in str(report.findings[0].waiver)
    assert not report.notes


@pytest.mark.parametrize("change", [{"cell": CELL[:-1]}, {"metric": "tpot"}, {"suite": "other"}])
def test_nothing_is_covered_by_a_name_that_is_nearly_right(tmp_path: Path, change: dict[str, str]) -> None:
    assert applied(tmp_path, SLOWER, **change).exit_code == 1


def test_above_the_ceiling_it_fails_and_says_so(tmp_path: Path) -> None:
    report = applied(tmp_path, SLOWER, ceiling="5.9%")
    assert report.exit_code == 1
    assert "worse than its waiver covers" in report.findings[0].reasons[0]


@pytest.mark.parametrize(("days", "code"), [(0, 0), (-1, 1)])
def test_the_last_day_still_counts(tmp_path: Path, days: int, code: int) -> None:
    report = applied(tmp_path, SLOWER, expires=str(TODAY + timedelta(days)))
    assert report.exit_code == code
    assert ("expires in 0 days" if days == 0 else "expired on") in report.notes[0]


@pytest.mark.parametrize(("days", "announced"), [(14, True), (15, False)])
def test_an_end_is_announced_two_weeks_ahead(tmp_path: Path, days: int, announced: bool) -> None:
    notes = applied(tmp_path, SLOWER, expires=str(TODAY + timedelta(days))).notes
    assert any("expires in" in note for note in notes) == announced


def test_one_that_is_not_needed_is_unused(tmp_path: Path) -> None:
    fine = Finding(CELL, "ttft", "catch 5%", Verdict.PASS, scale="ratio", estimate=1.0)
    assert "is unused" in applied(tmp_path, fine).notes[0]


def test_one_that_names_nothing_is_stale(tmp_path: Path) -> None:
    assert "is stale" in applied(tmp_path, SLOWER, cell="t:gone[]:x").notes[0]


@pytest.mark.parametrize(
    ("finding", "ceiling", "covered"),
    [
        (
            Finding(CELL, "acc", "", Verdict.REGRESSION, "fraction", "higher", scale="difference", estimate=-0.03),
            3,
            True,
        ),
        (
            Finding(CELL, "acc", "", Verdict.REGRESSION, "fraction", "higher", scale="difference", estimate=-0.03),
            2,
            False,
        ),
        (Finding(CELL, "kl", "", Verdict.REGRESSION, "nats", scale="value", estimate=0.2), 0.25, True),
        (Finding(CELL, "kl", "", Verdict.REGRESSION, "nats", scale="value", estimate=0.2), 0.15, False),
        (Finding(CELL, "top1", "", Verdict.REGRESSION, "", "higher", scale="value", estimate=0.7), 0.65, True),
        (Finding(CELL, "cache_bytes", "", Verdict.REGRESSION, "bytes", scale="difference", estimate=64.0), 64, True),
    ],
)
def test_a_ceiling_is_in_the_terms_of_its_limit(
    tmp_path: Path, finding: Finding, ceiling: float, covered: bool
) -> None:
    report = applied(tmp_path, finding, metric=finding.metric, ceiling=ceiling)
    assert (report.exit_code == 0) == covered


@pytest.mark.parametrize(
    ("scale", "ceiling", "text"), [("ratio", 8, "has to be a percentage"), ("value", "8%", "has to be a number")]
)
def test_a_ceiling_in_other_terms_breaks_the_gate(tmp_path: Path, scale: Any, ceiling: Any, text: str) -> None:
    found = Finding(CELL, "ttft", "limit", Verdict.REGRESSION, scale=scale, estimate=1.06)
    report = applied(tmp_path, found, ceiling=ceiling)
    assert report.exit_code == 2
    assert text in report.problems[0]


def test_a_cell_that_does_not_pass_cannot_be_waived(tmp_path: Path) -> None:
    failed = Finding(CELL, "status", "passes as before", Verdict.REGRESSION)
    assert "nothing can waive it" in applied(tmp_path, failed, metric="status").problems[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"expires": "soon"}, "a day such as"),
        ({"ceiling": "8 %"}, "ceiling"),
        ({"reason": ""}, "not empty"),
        ({"cel": "x"}, "'cel'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, str], text: str
) -> None:
    with pytest.raises(UsageError, match=r"waivers.yaml:\d") as caught:
        applied(tmp_path, SLOWER, **change)
    assert text in str(caught.value)


def test_two_waivers_of_one_thing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "waivers.yaml"
    path.write_text(yaml.safe_dump({"waivers": [GIVEN, GIVEN]}))
    with pytest.raises(UsageError, match="a second waiver of ttft"):
        read_waivers(path)


def test_a_waiver_reads_as_a_sentence() -> None:
    text = Waiver("s", "c", "m", "8%", "why", "ann", TODAY, "#41").text
    assert text == "up to 8% until 2027-01-31 (ann, #41): why"
