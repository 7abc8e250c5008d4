"""Machine facts are read from the kernel's own files, limits of control groups included."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.run import machine


def test_facts_describe_this_machine() -> None:
    facts = machine.collect("cpu")
    assert facts.cpu_count >= 1
    assert facts.cpu_model
    assert facts.memory_bytes > 2**28
    assert machine.available_memory_bytes("cpu") <= facts.memory_bytes
    assert "torch" in facts.packages
    assert facts.gpu_name is None


def test_the_context_of_a_run_can_be_stored() -> None:
    context = machine.run_context(machine.collect("cpu"), Path(__file__).parents[2])
    assert json.loads(json.dumps(context)) == context
    assert set(context) >= {"machine", "versions", "git", "load_average"}
    assert "hostname" not in json.dumps(context)


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group of version 2 with every file that is asked for."""
    group = tmp_path / "cgroup"
    group.mkdir()
    (group / "memory.max").write_text(f"{2**30}\n")
    (group / "cpu.max").write_text("150000 100000\n")
    (group / "memory.events").write_text("low 0\noom 2\noom_kill 5\n")
    monkeypatch.setattr(machine, "_own_cgroups", lambda: [group])
    return group


def test_a_control_groups_limits_count(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
    assert machine.memory_bytes() == 2**30
    assert machine.available_memory_bytes("cpu") <= 2**30
    assert machine.cpu_count() == 2  # one and a half, rounded up
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "cpu.max").write_text("max 100000\n")
    assert machine.memory_bytes() > 2**30
    assert machine.cpu_count() == 8


def test_a_growing_count_is_evidence(cgroup: Path) -> None:
    before = machine.oom_kills()
    assert machine.oom_evidence(before) is None
    (cgroup / "memory.events").write_text("low 0\noom 3\noom_kill 6\n")
    assert machine.oom_evidence(before) == f"oom_kill in {cgroup / 'memory.events'} grew"


def committed(folder: Path) -> None:
    """A repository with one commit of one file."""
    (folder / "file").write_text("1")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (["init"], ["add", "file"], [*identity, "commit", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_git_state_tells_commit_and_changes(tmp_path: Path) -> None:
    assert machine.git_state(tmp_path) == {}
    committed(tmp_path)
    clean = machine.git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "untracked").write_text("results")
    assert machine.git_state(tmp_path)["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert machine.git_state(tmp_path)["dirty"] is True


def test_asking_for_the_git_state_locks_no_index(tmp_path: Path) -> None:
    """Git would write down what it found, and a run killed at that moment would leave the lock behind."""
    committed(tmp_path)
    index = tmp_path / ".git" / "index"
    os.utime(tmp_path / "file", (1, 1))
    before = index.read_bytes()
    assert machine.git_state(tmp_path)["dirty"] is False
    assert index.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "NVIDIA H200, 143771, 9.0",
            {"gpu_name": "NVIDIA H200", "gpu_memory_bytes": 143771 * 2**20, "compute_capability": (9, 0)},
        ),
        ("No devices were found", {}),
        ("", {}),
    ],
)
def test_gpu_facts_come_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch, text: str, facts: dict[str, object]) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(machine, "_output", lambda _: text)
    assert machine.gpu_facts() == facts
