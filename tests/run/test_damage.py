"""What happens to results when the disk is full, two runs meet, a file is cut off, or the clock jumps backwards."""

from __future__ import annotations

import ast
import resource
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.records import store
from harness.records.record import Status
from harness.records.store import RunFolder
from tests.run.planted import PlantedRun
from tests.support.fake_suite import FakeSuite, fake_suite

ROOT = Path(__file__).resolve().parents[2]


def limited(suite: FakeSuite, *flags: str, file_bytes: int) -> subprocess.CompletedProcess[str]:
    """A run none of whose files may grow beyond so many bytes: what a full disk is to each of them."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    command = suite.command("run", str(suite.path), "--out", str(suite.out), *flags)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, preexec_fn=limit)


def test_a_disk_that_fills_up_ends_the_run_with_one_message_and_keeps_what_was_finished(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["sound"], list(range(4, 24, 2)))
    done = limited(suite, file_bytes=16_000)
    assert done.returncode == 2
    assert "cannot store a record: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    kept = RunFolder.open(suite.folders[0]).records()
    assert 0 < len(kept) < 10
    assert {record.status for record in kept} == {Status.PASSED}
    again = suite.run()
    assert again.returncode == 0
    assert f"{len(kept)} are taken over unchanged" in again.stderr
    assert len(suite.records()) == 10


def test_no_room_at_all_is_said_before_anything_runs(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["sound"], [8])
    done = limited(suite, file_bytes=64)
    assert done.returncode == 2
    assert "cannot write results there: File too large" in done.stderr
    assert suite.folders == []


def test_two_runs_at_the_same_time_have_a_folder_each(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["sound"], [8, 16])
    processes = [suite.start("--fresh") for _ in range(2)]
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    folders = suite.folders
    assert len(folders) == 2
    assert [len(RunFolder.open(folder).records()) for folder in folders] == [2, 2]


@pytest.mark.parametrize("cut", [1, 30, 400, 2_000])
def test_a_cut_off_results_file_costs_what_was_cut_off(tmp_path: Path, cut: int) -> None:
    run = PlantedRun.of(tmp_path, ["sound"], [8, 16, 32], rounds=1, max_rounds=1, restarts=0)
    run.measure(lambda _: 5.0)
    (file,) = (tmp_path / "results").glob("*/records.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    lost = 0 if cut == 1 else 3 - whole[:-cut].count(b"\n")  # a newline alone is missed by nobody
    records = run.measure(lambda _: 7.0)
    samples = sorted(sample for record in records for sample in record.metrics["ttft"].samples[:1])
    assert samples == [5.0] * (3 - lost) + [7.0] * lost


def test_a_clock_that_jumps_backwards_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are named by it and by nothing else; what is newest is never asked of it where it matters."""

    class Jumping(datetime):
        hours = 0

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            cls.hours -= 3
            return datetime.now(UTC) + timedelta(hours=cls.hours)

    monkeypatch.setattr(store, "datetime", Jumping)
    run = PlantedRun.of(tmp_path, ["sound"], [8, 16], rounds=1, max_rounds=1, restarts=0)
    first = run.measure(lambda _: 5.0)
    second = run.measure(lambda _: 7.0)
    assert len(list((tmp_path / "results").iterdir())) == 2
    assert [record.metrics for record in second] == [record.metrics for record in first]
    assert all("carried_over" in record.context for record in second)


def test_no_duration_is_read_off_a_clock_that_can_jump() -> None:
    """`time.time` follows the wall; durations and limits go by `monotonic` and `perf_counter`."""
    files = [path for part in ("run", "measure", "records", "gate") for path in (ROOT / "harness" / part).rglob("*.py")]
    for path in files:
        used = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr == "time" and ast.unparse(node.value) == "time"
        ]
        assert used == [], path
