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
    read_trials,
    run_trials,
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


def test_the_table_counts_what_came_out() -> None:
    good = Trial(SAME, "c", "now", 120.0, 0, "pass", {"pass": 9}, {"pass": 4}, {"pass": 2}, [1.0], [], {"A/A": True})
    bad = Trial(
        SAME, "c", "now", 180.0, 3, "unfit", {"pass": 9}, {"inconclusive": 4}, {}, [], ["x tpot"], {"A/A": False}
    )
    row = [cell.strip() for cell in text([good, good, bad]).splitlines()[2].split("|")[1:-1]]
    assert row == ["nothing", "3", "2 x 0, 1 x 3", "8 pass, 4 inconclusive", "", "", "1", "2 of 3", "2.0"]
    slow = replace(good, kind=SLOWER_TREE, slowed={"regression": 2}, ratios=[1.12, 1.3])
    assert "| 2 regression          | +12% to +30% |" in text([slow])


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
