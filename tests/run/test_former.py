"""The same command again measures what has changed, takes over what has not, and says which is which."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from harness.cli.main import main
from tests.run.test_interrupts import SLOW, finished_cells, wait_for
from tests.support.fake_suite import PLUGIN, FakeSuite, fake_suite


def run(suite: FakeSuite, *flags: str) -> int:
    return main(["run", str(suite.path), "--out", str(suite.out), *flags])


def carried(suite: FakeSuite) -> dict[tuple[str, int], str | None]:
    """(kernels, length) of the newest run's records to the run that measured it, None for this one."""
    return {
        (one["variant"]["kernels"], one["workload"]["length"]): one["context"].get("carried_over")
        for one in suite.records()
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a suite of two kernels and two lengths, run once; the plugin is a copy that a test may change."""
    folder = tmp_path_factory.mktemp("former")
    shutil.copy(PLUGIN, folder / "own_engine.py")
    assert run(fake_suite(folder, ["sound", "raise"], [8, 13], plugins=["own_engine.py"])) == 1  # `raise` fails at 13
    return folder


@pytest.fixture
def suite(ran: Path, tmp_path: Path) -> FakeSuite:
    """A copy of it all."""
    shutil.copytree(ran, tmp_path / "copy")
    return FakeSuite(tmp_path / "copy" / "faults.yaml", tmp_path / "copy" / "results")


def times(suite: FakeSuite, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """The plan's time column."""
    capsys.readouterr()
    assert main(["plan", str(suite.path), "--out", str(suite.out), "--format", "json", *flags]) == 0
    return [row["time"] for row in json.loads(capsys.readouterr().out)]


def test_what_passed_is_taken_over_and_what_failed_is_measured_again(
    suite: FakeSuite, capsys: pytest.CaptureFixture[str]
) -> None:
    first, former = suite.folders[0].name, {one["cell"]: one for one in suite.records()}
    assert run(suite) == 1
    assert carried(suite) == {("sound", 8): first, ("sound", 13): first, ("raise", 8): first, ("raise", 13): None}
    for one in suite.records():
        if one["status"] == "passed":
            assert one["metrics"] == former[one["cell"]]["metrics"]
            assert one["identity"] == former[one["cell"]]["identity"]
    said = capsys.readouterr().err
    assert "1 of 4 cells" in said
    assert f"3 are taken over unchanged from {first}; --fresh measures them again" in said
    assert run(suite) == 1
    assert set(carried(suite).values()) == {first, None}  # the run that measured, not the one that copied


def test_whatever_decides_a_value_has_it_measured_again(suite: FakeSuite, capsys: pytest.CaptureFixture[str]) -> None:
    assert times(suite, capsys).count("stored") == 3
    for flags in (("--fresh",), ("--seed", "5"), ("--set", "sampling.samples=3"), ("--threads", "3")):
        assert "stored" not in times(suite, capsys, *flags)
    assert times(suite, capsys, "--set", "sampling.timeout=50").count("stored") == 3


def test_a_changed_plugin_or_checkpoint_is_measured_again(suite: FakeSuite, capsys: pytest.CaptureFixture[str]) -> None:
    config = suite.path.parent / "checkpoint" / "config.json"
    text = config.read_text()
    config.write_text(json.dumps({**json.loads(text), "rms_norm_eps": 1e-5}))
    assert "stored" not in times(suite, capsys)
    config.write_text(text)
    assert times(suite, capsys).count("stored") == 3
    plugin = suite.path.parent / "own_engine.py"
    plugin.write_text(plugin.read_text() + "# changed\n")
    assert run(suite) == 1
    assert set(carried(suite).values()) == {None}
    assert "measured again, because it changed: 3 cells: code\n" in capsys.readouterr().err


EDITED_ONCE_A_WORKER_HAS_IT = """
import pathlib, sys
if getattr(sys.modules["__main__"].__spec__, "name", "") == "harness.run.worker":
    pathlib.Path(__file__).write_text(pathlib.Path(__file__).read_text() + "# edited")
"""


def test_code_is_what_the_workers_have_started_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own_engine.py").write_text(PLUGIN.read_text() + EDITED_ONCE_A_WORKER_HAS_IT)
    suite = fake_suite(tmp_path, ["sound"], [8], plugins=["own_engine.py"])
    assert suite.run().returncode == 0
    assert "stored" not in times(suite, capsys)


def test_a_cell_that_is_taken_over_still_answers_for_others(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["sound", "wrong"], [13])
    assert run(suite) == 1
    assert run(suite) == 1
    (wrong,) = [one for one in suite.records() if one["variant"]["kernels"] == "wrong"]
    assert wrong["status"] == "incorrect"
    assert carried(suite)["sound", 13] is not None
    assert "off by" in wrong["reasons"][0]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["slow"], [8, 9, 10], sampling=SLOW)
    process = suite.start()
    wait_for(lambda: finished_cells(suite) >= 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    before = {one["cell"] for one in suite.records()}
    assert 1 <= len(before) < 3
    assert run(suite) == 0
    assert {one["cell"] for one in suite.records() if "carried_over" in one["context"]} == before
    assert len(suite.records()) == 3


def test_a_truncated_results_file_costs_its_last_record_alone(suite: FakeSuite) -> None:
    records = suite.folders[0] / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    passed = [line for line in lines if b'"passed"' in line]
    records.write_bytes(b"".join(passed)[:-40])
    assert run(suite) == 1
    assert list(carried(suite).values()).count(None) == 2
