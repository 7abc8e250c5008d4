"""The live gate as a user runs it: a real repository, real workers of two versions, one command."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import EXIT_INTERRUPTED
from tests.support.repository import TestRepository

GATE = {
    "rules": [
        {"metrics": "ttft", "limit": "relative", "tolerate": "10%", "catch": "50%"},
        {"metrics": "cache_bytes", "limit": "exact"},
    ],
    "budget": 20,
}
"""Wide margins: the fake engine's calls take a tenth of a millisecond, on whatever machine runs the tests."""


@pytest.fixture
def repository(tmp_path: Path) -> TestRepository:
    return TestRepository.of_project(tmp_path / "repository", ["sound"], [16], gate=GATE)


def gate(repository: TestRepository, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON report and stderr of a gate."""
    report = repository.root.parent / "report.json"
    process = repository.start("gate", "faults.yaml", "--against", "HEAD", "--json", str(report), *flags)
    _, err = process.communicate(timeout=600)
    return process.returncode, json.loads(report.read_text()) if report.exists() else {}, err


@pytest.mark.slow
def test_a_slow_down_in_the_working_trees_plugin_is_found(repository: TestRepository) -> None:
    engine = repository.root / "engine.py"
    slow = engine.read_text().replace(
        '            if self.fault == "slow":\n',
        "            for _ in range(4):\n                self._append(tokens_BT, FakeState(*tokens_BT.shape))\n"
        '            if self.fault == "slow":\n',
    )
    assert slow != engine.read_text()
    engine.write_text(slow)
    code, document, err = gate(repository)
    findings = {one["metric"]: one for one in document["report"]["findings"]}
    assert findings["ttft"]["verdict"] == "regression", err
    assert findings["ttft"]["estimate"] > 1.5
    assert findings["cache_bytes"]["verdict"] == "pass"
    assert [control["finding"]["verdict"] for control in document["report"]["controls"]] == ["pass", "regression"]
    assert code == 1
    assert repository.worktrees == [str(repository.root)]
    assert not list(repository.root.glob("results/*"))


@pytest.mark.slow
def test_each_side_runs_its_own_code(repository: TestRepository) -> None:
    """The ref's package fails and the working tree's is sound: an improvement, if both are what they say."""
    state = repository.root / "harness" / "measure" / "prefill.py"
    sound = state.read_text()
    state.write_text(
        sound.replace(
            "def sized_state(self) -> State:\n        return self.state",
            "def sized_state(self) -> State:\n        raise RuntimeError('the ref')",
        )
    )
    repository.commit("broken")
    state.write_text(sound)
    code, document, _ = gate(repository)
    (status,) = [one for one in document["report"]["findings"] if one["metric"] == "status"]
    assert (status["verdict"], code) == ("improvement", 0)
    assert "failed before, passed now" in status["reasons"][0]


@pytest.mark.slow
def test_a_ref_without_workers_is_incomparable(tmp_path: Path, repository: TestRepository) -> None:
    protocol = repository.root / "harness" / "run" / "protocol.py"
    current = protocol.read_text()
    protocol.write_text(current.replace("PROTOCOL = 2", "PROTOCOL = 1"))
    repository.commit("another protocol")
    protocol.write_text(current)
    code, document, _ = gate(repository)
    assert {one["verdict"] for one in document["report"]["findings"]} == {"incomparable"}
    assert code == 3


def is_worker(process: psutil.Process) -> bool:
    try:
        return "harness.run.nursery" in " ".join(process.cmdline())  # a fork is called as what it is forked from
    except psutil.Error:  # a git that has just ended
        return False


@pytest.mark.slow
def test_ctrl_c_leaves_neither_workers_nor_worktree(repository: TestRepository) -> None:
    process = repository.start("gate", "faults.yaml", "--against", "HEAD")
    parent = psutil.Process(process.pid)
    end = time.monotonic() + 120
    while not any(map(is_worker, parent.children())):
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = parent.children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert repository.worktrees == [str(repository.root)]
    assert list(repository.temporary.iterdir()) == []
