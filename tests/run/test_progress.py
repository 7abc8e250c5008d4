"""On a terminal a bar, elsewhere lines now and then; the time left follows the real pace."""

from __future__ import annotations

import io
from typing import Any

import pytest

from harness.run import progress
from harness.run.progress import Bar, Lines, duration, open_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that stands until it is told to move."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    fake = Clock()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def test_the_time_left_follows_the_real_pace(clock: Any) -> None:
    lines = Lines(100.0, io.StringIO())
    assert lines.left() is None
    clock.now += 50
    lines.advance(25.0)  # twice as slow as estimated
    assert lines.left() == pytest.approx(150.0)
    lines.advance(1000.0)
    assert lines.left() == 0.0


def test_work_that_nobody_foresaw_is_left_too(clock: Any) -> None:
    bar = Bar(100.0, Terminal())
    clock.now += 50
    bar.advance(100.0)
    bar.expect(50.0)
    assert bar.left() == pytest.approx(25.0)
    bar.advance(25.0)
    assert (bar.bar.n, bar.bar.total) == (125.0, 150.0)
    bar.expect(5.0)
    assert bar.total == 150.0, "less than was expected before is no news"


def test_lines_come_at_intervals_and_notes_at_once(clock: Any) -> None:
    stream = io.StringIO()
    lines = Lines(100.0, stream)
    lines.say("first")
    clock.now += 1
    lines.say("too early")
    lines.note("failed: a cell")
    clock.now += progress.LINE_INTERVAL
    lines.advance(10.0)
    assert stream.getvalue().splitlines() == ["  0%  first", "failed: a cell", " 10%  too early, 1:39 min left"]


def test_a_terminal_gets_a_bar_that_leaves_no_trace() -> None:
    stream = Terminal()
    bar = open_progress(10.0, stream)
    assert isinstance(bar, Bar)
    bar.say("decode length=512")
    bar.advance(5.0)
    bar.note("failed: a cell")
    shown = stream.getvalue()
    assert "decode length=512" in shown
    assert " 50% |" in shown
    assert "failed: a cell\n" in shown
    bar.close()
    assert stream.getvalue().endswith("\r")
    assert isinstance(open_progress(10.0, io.StringIO()), Lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (3599.7, "1:00 h"), (7260, "2:01 h")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
