"""Recording: turns in random order, sessions that go on where they stopped."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.contract.planted import Planted
from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.gate.quality import recorder
from harness.gate.quality.recorder import CELLS, PLANTED, Bench, record, take_pairs
from harness.gate.quality.trace import BASE, BIMODAL, PAIRS_A_ROUND, SAME, Header, TracedCell, append, read_trace
from harness.records.conditions import Conditions
from harness.records.record import Status
from harness.run import protocol
from harness.run.client import CellError
from harness.suite.schema import Decode

CELL = TracedCell("decode", Decode(8, context="random", steps=2), "tpot", 2)
VARIANT = Registry([], entry_points=False).variant({"engine": "native"})


class FakeWorker:
    """Answers at once; a call takes 2 ms."""

    def __init__(self, name: str, log: list[str], planted: Planted, status: Status = Status.PASSED) -> None:
        self.name, self.log, self.planted, self.status = name, log, planted, status
        self.setup = protocol.Load("c", VARIANT, "cpu", 1, 0, [], "", "")

    def take_place(self, number: int) -> bool:
        self.place = number
        return True

    def ask(self, request: Any, *_: Any) -> Any:
        if isinstance(request, protocol.Open):
            self.steps = request.workload.steps
        if isinstance(request, protocol.Block):
            self.log.append(self.name)
            milliseconds = 2.0 * (1 + self.planted.slower)
            conditions = Conditions(waited=0.07, stolen=0.02)
            return protocol.Done({"tpot": [milliseconds] * request.samples * self.steps}, 0.01, conditions)
        if isinstance(request, protocol.Finish):
            return protocol.Result(self.status, ["as planted"], {}, {}, None)
        return None


class FakeBench(Bench):
    """Starts fake workers."""

    @contextmanager
    def workers(self, planted: dict[str, Planted]) -> Iterator[Any]:
        yield {name: FakeWorker(name, [], defect) for name, defect in planted.items()}


def test_turns_come_in_pairs_with_base_in_an_order_that_coins_decide() -> None:
    log: list[str] = []
    workers: Any = {name: FakeWorker(name, log, Planted()) for name in (BASE, SAME, "+3%")}
    taken = take_pairs(workers, CELL, 2, random.Random(1)).pairs
    pairs = [tuple(log[start : start + 2]) for start in range(0, len(log), 2)]
    assert all(BASE in pair and len(set(pair)) == 2 for pair in pairs)
    assert len(pairs) == 2 * (1 + PAIRS_A_ROUND[SAME] + 1 + PAIRS_A_ROUND["+3%"])
    for name, own in taken.items():
        first = [pair[0] == name for pair in pairs if name in pair]
        run = len(first) // 2
        assert first[1:run] + first[run + 1 :] == own.own_first, "a run of pairs, but for its first"
        assert 0.2 < sum(own.own_first) / len(own.own_first) < 0.8
    assert taken[SAME].base == taken[SAME].own == [[2000] * 4] * 2 * PAIRS_A_ROUND[SAME]
    assert taken["+3%"].lost == [7] * 2 * PAIRS_A_ROUND["+3%"]


def test_no_turn_that_is_short_follows_one_of_its_own_worker() -> None:
    """Where a coin would have it so, the other side repeats once in between, and that does not count."""
    log: list[str] = []
    workers: Any = {name: FakeWorker(name, log, Planted()) for name in (BASE, SAME)}
    spaced = msgspec.structs.replace(CELL, spaced=True)
    taken = take_pairs(workers, spaced, 1, random.Random(1)).pairs[SAME]
    assert all(one != other for one, other in pairwise(log))
    assert len(taken.base) == len(taken.own) == PAIRS_A_ROUND[SAME]
    between = len(log) - 2 * (1 + PAIRS_A_ROUND[SAME])
    assert 0.2 * PAIRS_A_ROUND[SAME] < between < 0.8 * PAIRS_A_ROUND[SAME]


def test_times_stay_with_their_side_whoever_goes_first() -> None:
    slow = Planted(slower=0.25)
    workers: Any = {BASE: FakeWorker(BASE, [], Planted()), "+5%": FakeWorker("+5%", [], slow)}
    taken = take_pairs(workers, CELL, 1, random.Random(1)).pairs["+5%"]
    assert len(set(taken.own_first)) == 2
    assert taken.base == [[2000] * 4] * PAIRS_A_ROUND["+5%"]
    assert taken.own == [[2500] * 4] * PAIRS_A_ROUND["+5%"]


def test_a_wrong_answer_is_not_recorded() -> None:
    workers: Any = {name: FakeWorker(name, [], Planted(), Status.INCORRECT) for name in (BASE, SAME)}
    with pytest.raises(CellError):
        take_pairs(workers, CELL, 2, random.Random(1))


def test_what_is_planted_is_what_is_said() -> None:
    assert PLANTED[BASE] == PLANTED[SAME] == Planted()
    assert PLANTED["+5%"] == Planted(slower=0.05)
    assert PLANTED[BIMODAL] == Planted(slower=0.1, share=0.5)


def test_a_trace_under_another_load_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quiet.jsonl.gz"
    append(path, Header("quiet", 2, "tiny-v3", "v", 0, [CELL], {BASE: Planted()}, {}, "now"))
    monkeypatch.setattr(recorder, "Bench", FakeBench)
    with pytest.raises(UsageError, match="beside 2 neighbours, not 0"):
        record(path, 0.0, neighbours=0)


def test_the_recorder_goes_on_where_it_stopped_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "quiet.jsonl.gz", count()
    planted = {BASE: Planted(), "+5%": Planted(slower=0.05)}
    append(path, Header("quiet", 0, "tiny-v3", "v", 0, [CELL], planted, {}, "now"))
    monkeypatch.setattr(recorder, "Bench", FakeBench)
    monkeypatch.setattr(recorder.time, "monotonic", lambda: float(next(clock)))
    first = record(path, minutes=0.01, rounds=4)
    assert [session.number for session in first.sessions] == [0]
    minutes = 2.9 * first.seconds / 60
    second = record(path, minutes=minutes, rounds=4)
    assert [session.number for session in second.sessions] == [0, 1]
    assert second.seconds <= 60 * minutes
    assert read_trace(path).pairs("decode", "+5%")[1][1].tolist() == [[2.1] * 4] * 4 * PAIRS_A_ROUND["+5%"]


@pytest.mark.slow
def test_real_workers_record_a_session(tmp_path: Path) -> None:
    path = tmp_path / "real.jsonl.gz"
    planted = {BASE: Planted(), "+5%": Planted(slower=0.05)}
    append(path, Header("real", 1, "tiny-v3", "v", 0, [CELLS[0]], planted, {}, "now"))
    trace = record(path, minutes=1e-9, neighbours=1, rounds=1)
    base, slower = trace.pairs("decode", "+5%")[0]
    assert base.shape == slower.shape == (PAIRS_A_ROUND["+5%"], 4)
    assert (base > 0).all()
