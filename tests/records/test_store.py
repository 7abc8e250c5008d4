"""A run on disk survives being killed at any moment, and says clearly what is wrong with anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.records.record import SCHEMA, Metric, Record, Status
from harness.records.store import RunFolder
from harness.suite.cell import CellId
from harness.suite.variant import Variant

VARIANT = Variant("native", "mqa", "dsa", "fp32", "latent", "eager", "plain")
CELL = CellId("t", {"kind": "prefill", "length": 8}, VARIANT)


def a_record(length: int = 8) -> Record:
    workload = {"kind": "prefill", "length": length}
    cell = CellId("t", workload, VARIANT)
    metrics = {"ttft": Metric("ms", [1.0, 3.0]), "tpot": Metric(withheld="no clock")}
    return Record(cell.id, "t", VARIANT, workload, Status.PASSED, metrics=metrics)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "deep" / "results", "quick", {"question": "?"}, {"machine": {}})


def test_what_is_stored_is_read_back(folder: RunFolder) -> None:
    for length in (8, 16):
        folder.append(a_record(length))
    again = RunFolder.open(folder.path)
    assert again.header == folder.header
    assert again.records() == [a_record(8), a_record(16)]
    assert again.records()[0].metrics["ttft"].value == 2.0
    assert again.header.schema == SCHEMA


def test_the_name_is_suite_and_utc_time(folder: RunFolder) -> None:
    name, _, stamp = folder.path.name.rpartition("-")
    assert name == "quick"
    assert len(stamp) == len("20260101T000000Z")


def test_two_runs_within_a_second_do_not_meet(tmp_path: Path) -> None:
    folders = {RunFolder.create(tmp_path, "quick", {}, {}).path for _ in range(4)}
    assert len(folders) == 4


def test_a_broken_last_line_is_dropped(folder: RunFolder) -> None:
    for length in (8, 16):
        folder.append(a_record(length))
    records = folder.path / "records.jsonl"
    whole = records.read_bytes()
    for cut in (1, 10, len(whole) // 2 - 1):
        records.write_bytes(whole[:-cut])
        assert RunFolder.open(folder.path).records()[:1] == [a_record(8)]
    records.write_bytes(whole[:-1])  # the newline alone is missing: the record is whole
    assert len(RunFolder.open(folder.path).records()) == 2


def test_a_broken_line_before_the_last_is_an_error_with_its_number(folder: RunFolder) -> None:
    for length in (8, 16):
        folder.append(a_record(length))
    records = folder.path / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(lines[0][:-20] + b"\n" + lines[1])
    with pytest.raises(UsageError, match=r"records\.jsonl:1: not a record"):
        folder.records()


def test_a_run_without_records_reads_as_empty(folder: RunFolder) -> None:
    assert RunFolder.open(folder.path).records() == []


def test_readers_ignore_keys_that_they_do_not_know(folder: RunFolder) -> None:
    folder.append(a_record())
    records = folder.path / "records.jsonl"
    records.write_bytes(b'{"from_the_future":1,' + records.read_bytes()[1:])
    assert folder.records() == [a_record()]


def test_samples_travel_in_their_own_file(folder: RunFolder) -> None:
    name = folder.write_samples(CELL, [{"doc": 1, "right": True}, {"doc": 2, "right": False}])
    assert name.startswith("samples/t-prefill-")
    record = Record("c", "t", VARIANT, {}, Status.PASSED, samples_file=name)
    assert folder.samples(record) == [{"doc": 1, "right": True}, {"doc": 2, "right": False}]
    assert folder.samples(a_record()) == []


def test_closing_removes_scratch_and_keeps_records(folder: RunFolder) -> None:
    (folder.scratch / "outputs").write_text("x")
    folder.append(a_record())
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["records.jsonl", "run.json"]


def test_closing_an_empty_run_leaves_nothing(folder: RunFolder) -> None:
    folder.close()
    assert not folder.path.exists()


def test_an_unwritable_place_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--out .*file.*: cannot write results there: Not a directory"):
        RunFolder.create(tmp_path / "file" / "results", "quick", {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_is_one_message_and_keeps_what_was_stored(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder.append(a_record())
    with monkeypatch.context() as patched:
        patched.setattr("harness.records.store.os.fsync", full)
        with pytest.raises(UsageError, match=r"cannot store a record: No space left on device"):
            folder.append(a_record(16))
        with pytest.raises(UsageError, match=r"cannot store samples: No space left on device"):
            folder.write_samples(CELL, [{}])
    assert folder.records()[0] == a_record()


def test_a_full_disk_leaves_no_half_made_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.records.store.os.fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        RunFolder.create(tmp_path / "results", "quick", {}, {})
    assert list((tmp_path / "results").glob("*")) == []


def test_a_folder_without_a_run_names_runs_nearby(folder: RunFolder) -> None:
    with pytest.raises(UsageError, match=r"holds no run \(no run\.json\); 1 runs? .*quick-"):
        RunFolder.open(folder.path.parent)
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder.open(folder.path.with_name("qiuck"))


def test_damaged_and_newer_headers_are_refused(folder: RunFolder) -> None:
    header = folder.path / "run.json"
    text = header.read_text()
    header.write_text(text.replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'))
    with pytest.raises(UsageError, match=f"schema {SCHEMA + 1}; this version reads up to {SCHEMA}"):
        RunFolder.open(folder.path)
    header.write_text(text[:20])
    with pytest.raises(UsageError, match=r"run\.json: is not a run's header"):
        RunFolder.open(folder.path)
