"""The document about the gate: made from traces alone, whole, and honest about what was missed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from msgspec.structs import replace

from harness.errors import UsageError
from harness.gate.quality.accuracy_trials import AccuracyTrials
from harness.gate.quality.document import NOT_TRIED, document, main, read_ends, write
from harness.gate.quality.figures import RULES, SLOWER, Quality, _judged
from harness.gate.quality.replay import Share
from harness.gate.quality.trace import Trace, append
from harness.records.store import RunEnd, RunFolder
from tests.gate.quality.fake_trace import fake_trace

CONTEXT = {"machine": {"cpu_count": 2, "cpu_model": "Planted CPU"}, "git": {"commit": "abcdef0123456789"}}


def stored(folder: Path, trace: Trace, name: str) -> Path:
    path = folder / f"{name}.jsonl.gz"
    append(path, replace(trace.header, name=name, context=CONTEXT))
    for session in trace.sessions:
        append(path, session)
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    traces = [stored(folder, fake_trace(20), "calm"), stored(folder, fake_trace(20, noise=0.4), "wild")]
    write(traces, folder / "gate_quality.md", live=None, flips=5)
    return folder


def test_everything_that_was_recorded_and_replayed_is_in_it(written: Path) -> None:
    text = (written / "gate_quality.md").read_text()
    for expected in ("Planted CPU", "abcdef012345", "## The trace `calm`", "### Ours on `wild`", "bimodal +5%", *RULES):
        assert expected in text
    assert "nan" not in text


def test_goals_are_judged_by_what_was_found(written: Path) -> None:
    lines = (written / "gate_quality.md").read_text().splitlines()
    goals = {(row[1].strip(), row[2].strip()): row[4] for row in (line.split("|") for line in lines) if len(row) == 7}
    assert "reached" in goals["calm", "+5% is found"] or "proven" in goals["calm", "+5% is found"]
    assert "missed" in goals["wild", "+5% is found"]


def test_each_trace_has_its_plot(written: Path) -> None:
    for name in ("calm", "wild"):
        assert f"(gate_quality_{name}.svg)" in (written / "gate_quality.md").read_text()
        ElementTree.parse(written / f"gate_quality_{name}.svg")


def test_the_recorded_slow_downs_are_shown_as_they_really_were() -> None:
    text = Quality(replace_context(fake_trace(4))).recording()
    assert all(name in text for name in SLOWER if name != "base")
    assert "+10%: +10" in text or "+10%: +9.9" in text


def replace_context(trace: Trace) -> Trace:
    return Trace(replace(trace.header, context=CONTEXT), trace.sessions)


@pytest.mark.parametrize(
    ("share", "goal", "least", "word"),
    [
        (Share(1000, 1000), 0.99, True, "proven"),
        (Share(100, 100), 0.99, True, "reached"),
        (Share(90, 100), 0.99, True, "missed"),
        (Share(0, 1000), 0.01, False, "proven"),
        (Share(0, 100), 0.01, False, "reached"),
        (Share(5, 100), 0.01, False, "missed"),
        (Share(0, 0), 0.01, False, "no window"),
    ],
)
def test_a_goal_is_proven_reached_or_missed(share: Share, goal: float, least: bool, word: str) -> None:
    assert _judged(share, goal, least).endswith(word)


def test_no_trace_is_an_error_not_an_empty_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no trace"):
        write([], tmp_path / "gate_quality.md")
    assert main(["--out", str(tmp_path / "x.md"), str(tmp_path / "none.gz")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_where_runs_spent_their_time_is_told_of_runs_that_say_so(tmp_path: Path) -> None:
    seconds = [{"loading": 20.0, "measured": 60.0, "warmup": 15.0}, {"measured": 40.0, "warmup": 30.0}, None]
    for number, spent in enumerate(seconds):
        run = RunFolder.create(tmp_path / "results", f"r{number}", {}, {})
        if spent:
            (run.path / "end.json").write_bytes(msgspec.json.encode(RunEnd.of(True, 100.0, spent)))
    ends = read_ends(sorted((tmp_path / "results").iterdir()))
    trace = Quality(replace_context(fake_trace(14)), flips=1)
    text = document([trace], AccuracyTrials.simulate(5), (), ends)
    assert NOT_TRIED in text
    rows = [line for line in text.splitlines() if "/r" in line and "%" in line]
    assert [[cell.strip() for cell in row.split("|")[2:6]] for row in rows] == [
        ["100", "94%", "20%", "yes"],
        ["100", "70%", "43%", "no"],
    ]


def test_a_trace_that_holds_no_window_is_refused(tmp_path: Path) -> None:
    short = stored(tmp_path, fake_trace(2, rounds=6), "short")
    with pytest.raises(UsageError, match="is too short"):
        write([short], tmp_path / "gate_quality.md", live=None, flips=5)


def test_paired_documents_show_what_unpaired_ones_do_not() -> None:
    trials = AccuracyTrials.simulate(400, seed=1)
    assert trials.paired.value >= 0.93
    assert trials.unpaired.value < 0.5
    assert trials.same.value < 0.08
    assert trials.identical == Share(0, 1)
    assert "two independent standard errors" in trials.text()
