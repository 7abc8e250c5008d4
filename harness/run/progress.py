"""What is running, how far, and how long it will take: one bar on a terminal, lines at intervals elsewhere."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from typing import TextIO

LINE_INTERVAL = 10.0
"""Seconds between lines when nobody watches a terminal."""


class Progress(ABC):
    """Counts estimated seconds of work; the estimates are only weights, the time left follows the real pace."""

    def __init__(self, total: float) -> None:
        self.total = max(total, 1e-9)
        self.done = 0.0
        self.text = ""
        self.started = time.monotonic()

    def advance(self, seconds: float) -> None:
        """Some estimated seconds of work are done."""
        self.done = min(self.done + seconds, self.total)
        self._show()

    def expect(self, seconds: float) -> None:
        """At least so many estimated seconds of work are left."""
        self.total = max(self.total, self.done + seconds)

    def say(self, text: str) -> None:
        """What is being done now."""
        self.text = text
        self._show()

    def tick(self) -> None:
        """Time has passed and nothing else."""
        self._show()

    def left(self) -> float | None:
        """Seconds left at the pace so far; None while there is no pace yet."""
        elapsed = time.monotonic() - self.started
        return elapsed / self.done * (self.total - self.done) if self.done > 0.01 * self.total else None

    @abstractmethod
    def _show(self) -> None: ...

    @abstractmethod
    def note(self, line: str) -> None:
        """Print a line that stays, such as a cell's end."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal clean."""


class Bar(Progress):
    """A tqdm bar."""

    def __init__(self, total: float, stream: TextIO) -> None:
        from tqdm import tqdm

        super().__init__(total)
        layout = "{percentage:3.0f}% |{bar:12}| {elapsed}{desc}"
        self.bar = tqdm(total=self.total, file=stream, bar_format=layout, dynamic_ncols=True, leave=False)

    def _show(self) -> None:
        left = self.left()
        rest = f", {duration(left)} left" if left is not None else ""
        self.bar.set_description_str(f"{rest}  {self.text}", refresh=False)
        self.bar.n, self.bar.total = self.done, self.total
        self.bar.refresh()

    def note(self, line: str) -> None:
        """Print above the bar."""
        self.bar.write(line, file=self.bar.fp)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


class Lines(Progress):
    """Plain lines, at most one every `LINE_INTERVAL` seconds besides notes."""

    def __init__(self, total: float, stream: TextIO) -> None:
        super().__init__(total)
        self.stream = stream
        self.shown = -LINE_INTERVAL

    def _show(self) -> None:
        if time.monotonic() - self.shown >= LINE_INTERVAL and self.text:
            left = self.left()
            rest = f", {duration(left)} left" if left is not None else ""
            self.note(f"{self.done / self.total:4.0%}  {self.text}{rest}")

    def note(self, line: str) -> None:
        """Print a line."""
        self.shown = time.monotonic()
        print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing to clean."""


def open_progress(total_seconds: float, stream: TextIO | None = None) -> Progress:
    """A bar when `stream` (default: stderr) is a terminal, else lines."""
    stream = stream or sys.stderr
    return Bar(total_seconds, stream) if stream.isatty() else Lines(total_seconds, stream)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(8.2), duration(79.9), duration(8000)
    ('8 s', '1:20 min', '2:13 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
