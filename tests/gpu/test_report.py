"""`make gpu` without a GPU: the whole way on a tiny suite, its files, its summary, and the end of time."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from harness import gpu

SUITE = """question: Is it right?
threads: 1
sampling: {rounds: 1, max_rounds: 1, samples: 1, warmup: 0, restarts: 0, budget: 0}
tables:
  decode:
    question: What does an operator cost?
    checkpoint: tiny-v32
    baseline: {kernels: eager}
    variants: [{kernels: eager}]
    workloads:
      - {kind: op, operator: [rms_norm, mqa_attention], length: 9, batch: 2}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def test_the_whole_way_without_a_gpu(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "_pytest", lambda: [gpu.sys.executable, "-c", "print('9 skipped in 1 s')"])
    results = tmp_path / "results"
    assert gpu.main([str(results), "--device", "cpu", "--suite", str(suite)]) == 0
    files = {path.name for path in results.iterdir()}
    assert files == {"log.txt", "runs.tar.gz", "summary.txt", "tables.txt", "tiny.json"}
    summary = (results / "summary.txt").read_text()
    assert "9 skipped" in summary
    assert "decode mqa_attention T1 S9 B2: eager" in summary
    assert "err x1" in summary
    assert json.loads((results / "tiny.json").read_text())["records"]
    with tarfile.open(results / "runs.tar.gz") as archive:
        assert any(name.endswith("records.jsonl") for name in archive.getnames())
    assert summary.strip() == capsys.readouterr().out.strip()


def test_a_step_that_takes_too_long_is_ended_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LAST_WORDS", 0.2)
    command = [gpu.sys.executable, "-c", "import time\nprint('begun', flush=True)\ntime.sleep(60)"]
    with (tmp_path / "log").open("wb") as log:
        ended = gpu._ended(gpu.Step("slow", command, 2.0), 2.0, log)
    assert not ended.in_time
    assert ended.seconds < 30
    assert ended.output == "begun\n"
    assert "ended at its end of time" in next(gpu._summaries([ended], tmp_path))


def test_time_left_over_is_the_next_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []

    def ended(step: gpu.Step, seconds: float, log: object) -> gpu.Ended:
        allowed.append(seconds)
        return gpu.Ended(step, 4.0, 0, True, "")

    monkeypatch.setattr(gpu, "_ended", ended)
    list(gpu._run([gpu.Step("one", [], 10.0), gpu.Step("two", [], 5.0), gpu.Step("three", [], 1.0)], tmp_path))
    assert allowed == [10.0, 11.0, 8.0]


def test_the_shares_are_the_whole_and_at_most_eight_files_come() -> None:
    assert sum(gpu.SHARES.values()) == pytest.approx(1)
    assert gpu.SECONDS < 540 - gpu.LAST_WORDS / 2
    suites = [name for name in gpu.SHARES if name != gpu.TESTS]
    assert all((gpu.ROOT / "suites" / f"{name}.yaml").is_file() for name in suites)
    assert len(suites) + len({"log.txt", "tables.txt", "summary.txt", "runs.tar.gz"}) <= 8


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "NEEDED", ("msgspec", "no_such_package"))
    assert gpu.main([str(tmp_path / "results")]) == 2
    assert "no_such_package" in capsys.readouterr().err
