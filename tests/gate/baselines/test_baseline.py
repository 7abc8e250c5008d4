"""Accepting: who, when, why and what changed; cells that were not measured stay; nothing wrong is accepted."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.gate.baselines.baseline import Baseline, Reason, accept, age_notes, find
from harness.gate.baselines.creep import creep, lines
from harness.gate.measured import open_run
from harness.gate.rules import Rules
from harness.records.record import Record, Status
from harness.records.store import RunFolder
from tests.gate.sides import DSA, MHA, MQA, documents, record, rules, run, scored

RULES = (
    {"metrics": "ttft", "limit": "relative"},
    {"metrics": "cache_bytes", "limit": "exact"},
    {"metrics": "acc", "limit": "points", "catch": 2},
)
WHY = Reason("ann", "measured on the new machine")


def by() -> Rules:
    return rules(*RULES)


def cell(variant: Any = MHA, ttft: float = 100.0, size: float = 64.0, **more: Any) -> Record:
    samples = [ttft * factor for factor in (0.999, 1.0, 1.001)]
    return record("prefill", variant, {"ttft": samples, "cache_bytes": [size]}, length=8, **more)


def accepted(folder: Path, run_folder: RunFolder, day: int = 1) -> Baseline:
    return accept(run_folder, by(), folder / "baselines", WHY, datetime(2027, 1, day, tzinfo=UTC))


def test_a_baseline_is_a_run_that_says_who_accepted_it_and_why(tmp_path: Path) -> None:
    made = accepted(tmp_path, run(tmp_path, [cell(), cell(MQA)]))
    assert made.path == tmp_path / "baselines" / "planted" / "planted-cpu-2cpu-24gib-cpu-1t"
    (first,) = made.acceptances
    assert (first.who, first.why, first.when) == ("ann", WHY.why, "2027-01-01T00:00:00+00:00")
    assert first.commit == "0123456789abcdef"
    assert first.values[cell().cell] == {"ttft": pytest.approx(100.0), "cache_bytes": 64.0}
    assert [one.cell for one in RunFolder.open(made.path).records()] == [cell().cell, cell(MQA).cell]


def test_a_new_acceptance_says_what_changed(tmp_path: Path) -> None:
    accepted(tmp_path, run(tmp_path, [cell(), cell(MQA)]))
    made = accepted(tmp_path, run(tmp_path, [cell(ttft=150.0), cell(MQA, size=32.0)]), day=2)
    assert [change.split(" [")[0] for change in made.acceptances[1].changes] == [
        "regression: prefill length=8 mha ttft 100 ms -> 150 ms +50%",
        "improvement: prefill length=8 mqa cache_bytes 64 B -> 32 B -32 B",
    ]
    assert made.accepted == dict.fromkeys([cell().cell, cell(MQA).cell], date(2027, 1, 2))


def test_a_narrowed_run_replaces_its_own_cells_and_keeps_the_others(tmp_path: Path) -> None:
    one = scored([1.0, 0.0], MQA)
    accepted(tmp_path, run(tmp_path, [cell(), one], documents={one.cell: documents([1.0, 0.0])}))
    made = accepted(tmp_path, run(tmp_path, [cell(size=65.0)], [MHA], command={"only": ["form=mha"]}), day=9)
    stored = {record.cell: record for record in made.folder.records()}
    assert stored[cell().cell].metrics["cache_bytes"].value == 65.0
    assert len(made.folder.samples(stored[one.cell])) == 2
    assert made.accepted == {cell().cell: date(2027, 1, 9), one.cell: date(2027, 1, 1)}
    assert made.folder.header.tables["t"].variants == [MHA, MQA, DSA]
    assert not made.acceptances[1].dropped


def test_a_whole_run_drops_cells_that_the_suite_has_no_more(tmp_path: Path) -> None:
    accepted(tmp_path, run(tmp_path, [cell(), cell(MQA)]))
    made = accepted(tmp_path, run(tmp_path, [cell()]), day=2)
    assert made.acceptances[1].dropped == [cell(MQA).cell]
    assert [one.cell for one in made.folder.records()] == [cell().cell]


@pytest.mark.parametrize("status", [Status.INCORRECT, Status.FAILED, Status.TIMEOUT, Status.OOM])
def test_a_run_in_which_something_failed_is_not_accepted(tmp_path: Path, status: Status) -> None:
    former = accepted(tmp_path, run(tmp_path, [cell()]))
    before = (former.path / "records.jsonl").read_bytes()
    with pytest.raises(UsageError, match=f"1 cells did not pass.*{status.value}"):
        accepted(tmp_path, run(tmp_path, [cell(), cell(MQA, status=status, reasons=["r"])]), day=2)
    assert (former.path / "records.jsonl").read_bytes() == before


def test_an_interrupted_run_is_not_accepted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="interrupted: 1 of 3 cells"):
        accepted(tmp_path, run(tmp_path, [cell()], cells=3))


def test_a_full_disk_leaves_the_former_baseline_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = accepted(tmp_path, run(tmp_path, [cell()]))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        patched.setattr("harness.records.store._write_synced", full, raising=False)
        with pytest.raises(UsageError, match="No space left"):
            accept(former.folder, by(), tmp_path / "baselines", WHY)
    assert len(Baseline.open(former.path).folder.records()) == 1
    assert [path.name for path in former.path.parent.iterdir()] == [former.path.name]


# --- finding it again ---------------------------------------------------------------------------------


def test_each_machine_has_its_own(tmp_path: Path) -> None:
    other = {"machine": {"cpu_model": "Other CPU", "cpu_count": 8, "memory_bytes": 2**36, "device": "cpu"}}
    here, there = run(tmp_path, [cell()]), run(tmp_path, [cell(context=other)], **other)
    first, second = accepted(tmp_path, here), accepted(tmp_path, there, day=2)
    assert first.path != second.path
    for side, expected in ((here, first), (there, second)):
        assert find(tmp_path / "baselines", "planted", open_run(side).side).path == expected.path


def test_another_machines_baseline_is_found_where_there_is_no_own(tmp_path: Path) -> None:
    there = accepted(tmp_path, run(tmp_path, [cell()], machine={"cpu_model": "Other CPU"}))
    assert find(tmp_path / "baselines", "planted", open_run(run(tmp_path, [cell()])).side).path == there.path


def test_no_baseline_at_all_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="harness accept RUN --reason TEXT"):
        find(tmp_path, "planted", open_run(run(tmp_path, [cell()])).side)


@pytest.mark.parametrize(("content", "text"), [(b"", "holds no acceptance"), (b"{", "not a list of acceptances")])
def test_a_broken_history_is_an_error(tmp_path: Path, content: bytes, text: str) -> None:
    made = accepted(tmp_path, run(tmp_path, [cell()]))
    (made.path / "acceptances.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=text):
        Baseline.open(made.path)


def test_age_is_announced_and_then_told(tmp_path: Path) -> None:
    made = accepted(tmp_path, run(tmp_path, [cell()]))
    notes = [age_notes(made, 30, date(2027, 1, day)) for day in (16, 17, 31)]
    assert [bool(note) for note in notes] == [False, True, True]
    assert "reach 30 days" in notes[2][0]
    assert "are not compared" in age_notes(made, 30, date(2027, 2, 1))[0]


# --- creep --------------------------------------------------------------------------------------------


def history(folder: Path, values: list[float], **more: Any) -> Baseline:
    for day, value in enumerate(values, 1):
        made = accepted(folder, run(folder, [cell(ttft=value, **more)]), day)
    return made


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([100, 102, 104, 106], True),
        ([100, 102, 104], False),
        ([100, 102, 101, 103, 102], False),
        ([100, 130, 131], False),
        ([100, 104.9, 104.9 * 1.049], True),
        ([100, 98, 96, 94, 92], False),
    ],
)
def test_small_losses_add_up_and_big_ones_were_looked_at(tmp_path: Path, values: list[float], found: bool) -> None:
    crept = creep(history(tmp_path, values), by())
    assert bool(crept) == found
    assert all(one.metric == "ttft" for one in crept)


def test_creep_says_since_when_and_how_to_measure_it(tmp_path: Path) -> None:
    told = lines(history(tmp_path, [100, 102, 104, 106]), by())
    assert told[0].startswith("creep: prefill length=8 ttft has lost 6.0% in 3 accepted steps since 2027-01-01")
    assert "--against 0123456789abcdef" in told[1]


def test_shares_creep_by_points(tmp_path: Path) -> None:
    for day, right in enumerate((80, 79, 78, 77), 1):
        scores = [1.0] * right + [0.0] * (100 - right)
        one = scored(scores)
        made = accepted(tmp_path, run(tmp_path, [one], documents={one.cell: documents(scores)}), day)
    (crept,) = creep(made, by())
    assert crept.loss == pytest.approx(0.03)
    assert "3 points" in lines(made, by())[0]


def test_a_series_starts_again_where_values_cannot_be_compared(tmp_path: Path) -> None:
    other = {"name": "second", "sha256": "cd" * 32}
    history(tmp_path, [100, 102, 104])
    accepted(tmp_path, run(tmp_path, [cell(ttft=106, checkpoint=other)]), 4)
    assert not creep(accepted(tmp_path, run(tmp_path, [cell(ttft=108, checkpoint=other)]), 5), by())
