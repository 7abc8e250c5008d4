"""Ctrl-C and kill -9 lose no finished cell, and no worker outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.errors import EXIT_INTERRUPTED
from harness.records.store import RunFolder
from tests.support.fake_suite import FakeSuite, fake_suite

SLOW = {"rounds": 1, "max_rounds": 1, "restarts": 0, "samples": 4, "warmup": 0, "timeout": 60.0}
"""Cells of `slow` kernels take about one and a half seconds."""


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def finished_cells(suite: FakeSuite) -> int:
    files = list(suite.out.glob("*/records.jsonl"))
    return files[0].read_bytes().count(b"\n") if files else 0


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its workers; other children, such as a short `git`, are none."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if _is_worker(child)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "harness.run.worker" in process.cmdline()
    except psutil.Error:  # it has just ended
        return False


@pytest.fixture
def running(tmp_path: Path) -> tuple[FakeSuite, subprocess.Popen[str]]:
    """A run of four slow cells, of which at least one has finished."""
    suite = fake_suite(tmp_path, ["slow"], [8, 9, 10, 11], sampling=SLOW)
    process = suite.start()
    wait_for(lambda: finished_cells(suite) >= 1)
    return suite, process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_keeps_finished_cells_and_prints_them(
    running: tuple[FakeSuite, subprocess.Popen[str]], number: signal.Signals
) -> None:
    suite, process = running
    workers = workers_of(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in err
    assert "finished cells are stored" in err
    records = RunFolder.open(suite.folders[0]).records()
    assert 1 <= len(records) < 4
    assert all(record.status == "passed" for record in records)
    assert "TTFT" in out
    assert not (suite.folders[0] / "scratch").exists()
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["hang"], [13])
    process = suite.start()
    wait_for(lambda: bool(workers_of(process)))
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == EXIT_INTERRUPTED
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_kill_9_loses_no_finished_cell_and_workers_notice(running: tuple[FakeSuite, subprocess.Popen[str]]) -> None:
    suite, process = running
    workers = workers_of(process)
    assert workers
    process.kill()
    process.communicate(timeout=20)
    assert not psutil.wait_procs(workers, timeout=10)[1]
    records = RunFolder.open(suite.folders[0]).records()
    assert 1 <= len(records) < 4


def test_a_worker_ends_with_its_parent_whatever_it_is_doing(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["hang"], [8, 13])
    process = suite.start()
    wait_for(lambda: finished_cells(suite) >= 1)
    time.sleep(0.5)  # by now it hangs in the next cell
    workers = workers_of(process)
    assert workers
    process.kill()
    process.communicate(timeout=20)
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_workers_are_out_of_reach_of_the_terminals_ctrl_c(running: tuple[FakeSuite, subprocess.Popen[str]]) -> None:
    """A terminal sends it to the whole foreground group; a worker that ended by it would be a failed cell."""
    _, process = running
    (worker,) = workers_of(process)
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(process.pid)
    process.kill()
    process.communicate(timeout=20)
