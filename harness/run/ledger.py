"""Where a run's time went: what was measured, and what measuring cost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from harness.records.store import RunEnd

Purpose = Literal["loading", "setup", "warmup", "measured", "checks"]
"""Starting workers; opening cells; untimed repetitions; blocks, and cells without a clock; checking answers."""


class Ledger:
    """Adds up seconds by purpose; what nobody claims is the harness's own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, purpose: Purpose, seconds: float) -> None:
        """Some seconds were spent on a purpose."""
        self.seconds[purpose] += seconds

    @contextmanager
    def spending(self, purpose: Purpose) -> Iterator[None]:
        """What is inside is spent on a purpose, whether or not it succeeds."""
        begun = self.clock()
        try:
            yield
        finally:
            self.add(purpose, self.clock() - begun)

    def close(self, finished: bool) -> RunEnd:
        """The run is over."""
        return RunEnd.of(finished, self.clock() - self.started, dict(self.seconds))
