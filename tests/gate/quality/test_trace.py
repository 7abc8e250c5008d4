"""A trace on disk: what is written is read, what a killed recorder left behind is cut off."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from harness.contract.planted import Planted
from harness.errors import UsageError
from harness.gate.quality.trace import BASE, SAME, CellTurns, Header, Pairs, Session, TracedCell, append, read_trace
from harness.suite.schema import Decode


def header() -> Header:
    cell = TracedCell("decode", Decode(8), "tpot", 1)
    planted = {BASE: Planted(), SAME: Planted(), "+5%": Planted(slower=0.05)}
    return Header("test", 0, "tiny-v3", "native/mqa", 0, [cell], planted, {}, "2026-01-01T00:00:00+00:00")


def session(number: int) -> Session:
    def pairs(variant: int) -> Pairs:
        base, own = ([[1000 * one + 10 * number + turn, 7] for turn in range(2)] for one in (0, variant))
        return Pairs([True, False], base, own, [3 * variant, 0])

    turns = CellTurns(0.01 * (number + 1), {SAME: pairs(1), "+5%": pairs(2)})
    return Session(number, 0.0, 1.0, 2.5, [0.1, 0.1, 0.1], {"decode": turns})


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "traces" / "test.jsonl.gz"
    for line in (header(), session(0), session(1)):
        append(path, line)
    return path


def test_what_is_written_is_read(stored: Path) -> None:
    trace = read_trace(stored)
    assert trace.header == header()
    assert trace.sessions == [session(0), session(1)]
    assert trace.seconds == 5.0
    assert trace.turn_seconds("decode") == pytest.approx(0.015)
    (base, own), (_, later) = trace.pairs("decode", "+5%")
    assert np.array_equal(base, [[0.0, 0.007], [0.001, 0.007]])
    assert np.array_equal(own, [[2.0, 0.007], [2.001, 0.007]])
    assert later[0, 0] == 2.010
    assert trace.lost("decode", "+5%")[0].tolist() == [0.06, 0.0]


def test_it_is_plain_gzip_of_json_lines(stored: Path) -> None:
    assert len(gzip.decompress(stored.read_bytes()).splitlines()) == 3


@pytest.mark.parametrize("lost", [1, 40])
def test_a_broken_last_session_is_dropped_and_overwritten(stored: Path, lost: int) -> None:
    stored.write_bytes(stored.read_bytes()[:-lost])
    assert read_trace(stored).sessions == [session(0)]
    append(stored, session(2))
    assert read_trace(stored).sessions == [session(0), session(2)]


@pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"{}\n")], ids=["empty", "text", "gzip"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.gz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no trace"):
        read_trace(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none.gz")
