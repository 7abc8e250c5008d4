"""Every way in which an engine can go wrong costs its own cell alone, has its own status, and fails the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.run.protocol import PARENT_CONTEXT
from tests.support.fake_suite import FakeSuite, fake_suite

EXPECTED = {
    "sound": ("passed", ""),
    "crash": ("failed", "the worker exited with code 3"),
    "segfault": ("failed", "the worker was killed by SIGSEGV"),
    "raise": ("failed", "RuntimeError: a planted error"),
    "exit": ("failed", "SystemExit: 0"),
    "hog": ("oom", "can't allocate memory"),
    "leak": ("oom", ""),
    "killed": ("failed", "the worker was killed by SIGKILL"),
    "unsupported": ("unsupported", "the first reason"),
    "chatter": ("passed", ""),
    "wrong": ("incorrect", ""),
    "nan": ("incorrect", "NaN or infinite"),
}
"""Fault -> status of the cell in which it strikes, and a part of its reason."""

ALWAYS = {
    "load-raise": ("failed", "while loading the model: ValueError: a planted error while loading"),
    "load-crash": ("failed", "while loading the model: the worker exited with code 4"),
    "not-here": ("unsupported", "this is not here"),
}
"""Faults that strike before any cell of the variant."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, FakeSuite]:
    """One run with all faults; the struck cell (13 tokens) stands between two others."""
    suite = fake_suite(tmp_path_factory.mktemp("faults"), [*EXPECTED, *ALWAYS], [8, 13, 16])
    done = suite.run()
    assert "Traceback" not in done.stderr
    return done.returncode, suite


def record(suite: FakeSuite, kernels: str, length: int) -> dict[str, Any]:
    found = [
        one for one in suite.records() if one["variant"]["kernels"] == kernels and one["workload"]["length"] == length
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("fault", EXPECTED)
def test_a_fault_has_its_status_and_costs_its_own_cell_alone(ran: tuple[int, FakeSuite], fault: str) -> None:
    _, suite = ran
    struck = record(suite, fault, 13)
    status, reason = EXPECTED[fault]
    assert (struck["status"], reason in "; ".join(struck.get("reasons", []))) == (status, True)
    assert [record(suite, fault, length)["status"] for length in (8, 16)] == ["passed", "passed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "replaced"), [("raise", True), ("hog", True), ("unsupported", False), ("sound", False)]
)
def test_a_worker_that_failed_is_not_trusted_any_further(
    ran: tuple[int, FakeSuite], fault: str, replaced: bool
) -> None:
    before, after = (record(ran[1], fault, length)["context"]["worker_pid"] for length in (8, 16))
    assert (before != after) == replaced


@pytest.mark.slow
@pytest.mark.parametrize("fault", ALWAYS)
def test_a_variant_that_cannot_start_costs_its_own_cells(ran: tuple[int, FakeSuite], fault: str) -> None:
    _, suite = ran
    status, reason = ALWAYS[fault]
    for length in (8, 13, 16):
        struck = record(suite, fault, length)
        assert (struck["status"], reason in "; ".join(struck["reasons"])) == (status, True)


@pytest.mark.slow
def test_a_failed_cell_fails_the_run(ran: tuple[int, FakeSuite]) -> None:
    assert ran[0] == 1


@pytest.mark.slow
def test_only_passed_cells_carry_timing(ran: tuple[int, FakeSuite]) -> None:
    for one in ran[1].records():
        ttft = one.get("metrics", {}).get("ttft", {})
        assert ("samples" in ttft) == (one["status"] == "passed"), one["cell"]


@pytest.mark.slow
def test_failed_cells_keep_the_end_of_the_output(ran: tuple[int, FakeSuite]) -> None:
    _, suite = ran
    assert "about to crash" in record(suite, "crash", 13)["output"]
    assert "a planted error\nwith a second line" in record(suite, "raise", 13)["output"]
    assert "Segmentation fault" in record(suite, "segfault", 13)["output"]
    assert record(suite, "unsupported", 13)["reasons"] == ["the first reason", "the second reason"]


@pytest.mark.slow
def test_every_record_says_what_decided_it(ran: tuple[int, FakeSuite]) -> None:
    for one in ran[1].records():
        context = one["context"]
        assert context["threads"] == 1
        assert context["interleaved"] is True
        assert context["machine"]["cpu_count"] >= 1
        assert "torch" in context["versions"]
        assert len(one["checkpoint"]["sha256"]) == 64
    good = record(ran[1], "sound", 8)
    assert good["context"]["fake_fact"] == 7
    assert good["resolved"] == {"everything": "fake"}
    assert len(good["context"]["turns"]) == 2
    assert set(good["context"]) >= set(PARENT_CONTEXT) >= set(record(ran[1], "not-here", 8)["context"])


@pytest.mark.slow
def test_nothing_is_left_behind(ran: tuple[int, FakeSuite]) -> None:
    (folder,) = ran[1].folders
    assert sorted(path.name for path in folder.iterdir()) == ["end.json", "records.jsonl", "run.json"]


@pytest.mark.slow
def test_a_hanging_worker_is_ended_at_the_time_limit(tmp_path: Path) -> None:
    sampling = {
        "rounds": 1,
        "max_rounds": 1,
        "restarts": 0,
        "samples": 1,
        "timeout": 20.0,
    }  # loading on a busy machine has to fit in
    suite = fake_suite(tmp_path, ["sound", "hang"], [13, 16], sampling=sampling)
    assert suite.run().returncode == 1
    assert record(suite, "hang", 13)["status"] == "timeout"
    assert "time limit of 20 s" in record(suite, "hang", 13)["reasons"][0]
    assert [record(suite, kernels, 16)["status"] for kernels in ("sound", "hang")] == ["passed", "passed"]


def test_bad_input_found_while_loading_is_a_usage_error_and_leaves_nothing(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["load-usage"], [8])
    done = suite.run()
    assert done.returncode == 2
    assert "harness: model.safetensors: tensor 'model.norm.weight' has shape [3]; allowed: [64]" in done.stderr
    assert "Traceback" not in done.stderr
    assert suite.folders == []
    assert list(suite.out.iterdir()) == []


def test_a_broken_baseline_leaves_the_others_something_to_be_held_against(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["load-raise", "sound", "wrong"], [13])
    assert suite.run().returncode == 1
    assert [record(suite, one, 13)["status"] for one in ("load-raise", "sound", "wrong")] == [
        "failed",
        "passed",
        "incorrect",
    ]


def test_cells_are_wrapped_from_warm_up_to_the_last_sample(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["sound"], [8])
    log = tmp_path / "wraps"
    assert suite.run(FAKE_WRAP_LOG=str(log)).returncode == 0
    cell = record(suite, "sound", 8)["cell"]
    assert log.read_text().splitlines() == [f"enter {cell}", f"leave {cell}"]


def test_the_result_document_says_it_all(tmp_path: Path) -> None:
    suite = fake_suite(tmp_path, ["sound", "not-here"], [8])
    done = suite.run("--json", str(tmp_path / "result.json"))
    assert done.returncode == 0
    document = json.loads((tmp_path / "result.json").read_text())
    assert sorted(document) == ["context", "records", "schema", "suite"]
    good, missing = sorted(document["records"], key=lambda one: one["status"])
    ttft = good["metrics"]["ttft"]
    assert ttft["unit"] == "ms"
    assert ttft["value"] == pytest.approx(sum(ttft["samples"]) / 2)
    assert good["variant"]["kernels"] == "sound"
    assert (missing["status"], missing["reasons"]) == ("unsupported", ["this is not here", "and neither is that"])
