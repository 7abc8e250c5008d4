"""End-to-end trials: what is planted where, what is kept of a report, and going on where they stopped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.errors import UsageError
from harness.gate.output.document import GateDocument
from harness.gate.quality import trials
from harness.gate.quality.trials import (
    PLANT,
    PLUGIN,
    SAME,
    SLOWER_REF,
    SLOWER_TREE,
    Trial,
    forecast,
    read_trials,
    run_trials,
    sample,
    text,
)
from harness.gate.verdict import Control, Finding, GateReport, Side, Verdict
from harness.run.client import package_root

MQA, MHA = "t:decode[]:native/mqa/dense", "t:decode[]:native/mha/dense"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with nothing but the plugin."""
    root = tmp_path / "repository"
    (root / PLUGIN).parent.mkdir(parents=True)
    (root / PLUGIN).write_text("sound\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "sound")
    monkeypatch.setattr(trials, "package_root", lambda: root)
    return root


def document(*findings: Finding) -> GateDocument:
    control = Control("A/A", Verdict.PASS, Finding("control", "ttft", "", Verdict.PASS, timed=True))
    report = GateReport("quickstart", Side("HEAD"), Side("working tree"), "ref", list(findings), [control])
    return GateDocument(1, report.outcome, report.exit_code, report)


def finding(cell: str, verdict: Verdict) -> Finding:
    return Finding(cell, "tpot", "", verdict, timed=True)


def test_the_plant_is_where_the_trial_says(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = {}

    def gate(clone: Path, suite: Path, reference: str, folder: Path) -> tuple[int, GateDocument]:
        in_ref = "".join(git(clone, "show", f"{reference}:{PLUGIN}"))
        seen[kind] = (PLANT.strip() in in_ref, PLANT.strip() in (clone / PLUGIN).read_text())
        return 0, document(finding(MQA, Verdict.PASS))

    monkeypatch.setattr(trials, "_gate", gate)
    for kind in (SAME, SLOWER_TREE, SLOWER_REF):
        run_trials(Path("suite.yaml"), tmp_path / "live.jsonl", {kind: 1})
    assert seen == {SAME: (False, False), SLOWER_TREE: (False, True), SLOWER_REF: (True, False)}
    assert git(repository, "status", "--porcelain") == ""
    assert len(git(repository, "log", "--all", "--oneline").splitlines()) == 1


def test_trials_go_on_where_they_stopped(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def gate(*_: object) -> tuple[int, GateDocument]:
        calls.append(1)
        return 1, document(finding(MQA, Verdict.REGRESSION), finding(MHA, Verdict.REGRESSION))

    monkeypatch.setattr(trials, "_gate", gate)
    out = tmp_path / "traces" / "live.jsonl"
    run_trials(Path("suite.yaml"), out, {SAME: 2})
    stored = run_trials(Path("suite.yaml"), out, {SAME: 3, SLOWER_TREE: 1})
    assert len(calls) == 4
    assert stored == read_trials(out)
    assert [trial.kind for trial in stored] == [SAME, SAME, SAME, SLOWER_TREE]
    assert stored[0].false_alarms == [f"{MQA} tpot", f"{MHA} tpot"]
    assert stored[3].false_alarms == [f"{MHA} tpot"], "where it was planted a regression is right"
    assert stored[3].slowed == {"regression": 1}
    assert stored[3].controls == {"A/A": True}


GOOD = Trial(
    kind=SAME, suite="quickstart", commit="c", started="now", seconds=120.0, exit_code=0, outcome="pass",
    verdicts={"pass": 9}, timed={"pass": 4}, slowed={"pass": 2}, ratios=[1.0], false_alarms=[], controls={"A/A": True},
)  # fmt: skip
BAD = replace(
    GOOD, commit="d", seconds=180.0, exit_code=3, outcome="unfit", timed={"inconclusive": 4}, slowed={}, ratios=[],
    false_alarms=["x tpot"], controls={"A/A": False},
)  # fmt: skip


def test_the_table_counts_what_came_out() -> None:
    row = [cell.strip() for cell in text([GOOD, GOOD, BAD]).splitlines()[2].split("|")[1:-1]]
    assert row == ["nothing", "3", "2 x 0, 1 x 3", "8 pass, 4 inconclusive", "", "", "1", "2 of 3", "2.0"]
    slow = replace(GOOD, kind=SLOWER_TREE, slowed={"regression": 2}, ratios=[1.12, 1.3])
    assert "| 2 regression          | +12% to +30% |" in text([slow])


def test_few_trials_say_how_little_they_rule_out() -> None:
    one = sample([GOOD, replace(GOOD, kind=SLOWER_REF, commit="e")])
    assert "1 of 20 unchanged, 0 of 3 with a slower working tree, 1 of 3 with a slower ref, on 2 commits" in one
    assert "0 of 1 unchanged runs cried wolf; at 95% the share of such runs is at most 95%" in one
    assert "0 of 20 unchanged runs cried wolf; at 95% the share of such runs is at most 14%" in sample([GOOD] * 20)
    assert "1 of 3 unchanged runs cried wolf" in sample([GOOD, GOOD, BAD])
    assert "nothing is known about false alarms" in sample([replace(GOOD, kind=SLOWER_TREE)])


def test_the_forecast_goes_by_the_pace_of_what_is_stored() -> None:
    wanted = {SAME: 5, SLOWER_TREE: 1}
    assert forecast([GOOD, BAD], wanted) == "2 of 6 trials are there; 4 to go, about 10 minutes (2.5 each)"
    assert forecast([GOOD] * 7, {SAME: 5}) == "5 of 5 trials are there; none to go"


def test_trials_of_another_suite_do_not_count(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials, "_gate", lambda *_: (0, document(finding(MQA, Verdict.PASS))))
    run_trials(Path("suites/one.yaml"), tmp_path / "live.jsonl", {SAME: 1})
    stored = run_trials(Path("suites/other.yaml"), tmp_path / "live.jsonl", {SAME: 2})
    assert [trial.suite for trial in stored] == ["one", "other", "other"]
    assert "0 of 2 trials are there; 2 to go, about 16 minutes (8.0 each)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], {SAME: 20, SLOWER_TREE: 3, SLOWER_REF: 3}),
        (["--only", "aa"], {SAME: 20}),
        (["--only", "ref", "--only", "tree", "--count", "2"], {SLOWER_TREE: 2, SLOWER_REF: 2}),
    ],
)
def test_parts_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: list[str], wanted: dict[str, int]
) -> None:
    asked = []
    monkeypatch.setattr(trials, "run_trials", lambda suite, out, kinds: asked.append((suite, out, kinds)))
    out = tmp_path / "live.jsonl"
    assert trials.main(["--out", str(out), *flags]) == 0
    assert asked == [(Path("suites/quickstart.yaml"), out, wanted)]


@pytest.mark.parametrize("flags", [["--only", "slow"], ["--count", "0"]])
def test_a_part_that_is_none_is_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        trials.main(flags)
    assert ended.value.code == 2


def test_a_gate_without_a_report_is_an_error(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="left no report, exit code"):
        run_trials(Path("no_such_suite.yaml"), tmp_path / "live.jsonl", {SAME: 1})


def test_the_plant_fits_the_plugin_that_it_is_put_into() -> None:
    source = (package_root() / PLUGIN).read_text()
    namespace: dict = {"__name__": "planted"}
    exec(compile(source + PLANT, PLUGIN, "exec"), namespace)
    assert namespace["Mqa"].attend is namespace["_attend_twice"]


def test_what_is_no_trial_is_refused(tmp_path: Path) -> None:
    (tmp_path / "live.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="holds no trials"):
        read_trials(tmp_path / "live.jsonl")
    assert read_trials(tmp_path / "none.jsonl") == []
