"""How a self-test is shown: a row a plant, and every answer that was not right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.cli.self_testing import SHOWN, text
from harness.gate.quality.selftest import Plant, Tried
from harness.gate.verdict import Finding, GateReport, Side, Verdict


def finding(metric: str, verdict: Verdict, cell: str = "t:decode[]:v", **more: object) -> Finding:
    return Finding(cell, metric, "", verdict, timed=metric == "ttft", seconds=2.0, **more)  # type: ignore[arg-type]


def tried(name: str, hits: tuple[str, ...], *found: Finding) -> Tried:
    return Tried(Plant(name, None, hits), GateReport("s", Side("a"), Side("b"), "ref", list(found)))


UNCHANGED = tried("nothing", (), finding("ttft", Verdict.PASS), finding("kl", Verdict.PASS))
SEEN = tried("more work", ("ttft",), finding("ttft", Verdict.REGRESSION), finding("kl", Verdict.PASS))
CRIED = tried(
    "noise", ("acc",),
    finding("acc", Verdict.INCONCLUSIVE, reasons=["about 300 documents would decide"]),
    finding("ttft", Verdict.REGRESSION, scale="ratio", estimate=1.08),
    finding("kl", Verdict.INCOMPARABLE),
)  # fmt: skip


def test_counts_are_in_the_table() -> None:
    rows = json.loads(text([UNCHANGED, SEEN, CRIED], "json"))
    columns = ("to be seen", "caught", "open", "missed", "other answers", "open or broken", "false alarms", "seconds")
    assert [[row[name] for name in columns] for row in rows] == [
        ["0", "0", "0", "0", "2", "0", "0", "2"],
        ["1", "1", "0", "0", "1", "0", "0", "2"],
        ["1", "0", "1", "0", "2", "1", "1", "2"],
    ]


def test_people_read_what_was_wrong_and_why() -> None:
    shown = text([UNCHANGED, CRIED], "terminal")
    assert "not every answer was right:" in shown
    assert "- noise: t:decode[]:v acc: inconclusive (about 300 documents would decide)" in shown
    assert "- noise: t:decode[]:v ttft: regression, +8.0%" in shown
    assert "every answer was right" in text([UNCHANGED, SEEN], "markdown").splitlines()[-1]


def test_many_wrong_answers_are_cut_short() -> None:
    many = tried("nothing", (), *(finding("kl", Verdict.REGRESSION, f"c{number}") for number in range(SHOWN + 3)))
    assert "- nothing: 3 more" in text([many], "terminal")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--self-test", "--format", "junit"], "allowed: terminal, markdown, json"),
        (["--self-test", "--against", "HEAD"], "say what to compare"),
        (["--self-test", "--times", "0"], "whole number of at least 1"),
    ],
)
def test_what_cannot_be_asked_for(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    suite = Path(__file__).parents[2] / "suites" / "quickstart.yaml"
    try:
        code = main(["gate", str(suite), *flags])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
