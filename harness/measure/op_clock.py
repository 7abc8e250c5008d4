"""How long a device works on one short call, without the time that the host needs to launch it.

On a GPU the host is kept ahead: before the call that is timed, the queue is filled with work that takes longer than
launching the call does (overwriting a buffer larger than the L2 cache, several times), and events around the call
tell the device's own time. The last thing in the queue before it is that overwriting (`cold`), or the same call
(`warm`). A call that waits for its own results, as some eager operators do, is timed with its waiting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from harness.measure.clock import CpuClock, CudaClock

FILLING_MS = 0.4
"""Device time of queued work ahead of a timed call: several times what launching a handful of kernels takes."""


class OpClock(ABC):
    """Milliseconds of one call."""

    @abstractmethod
    def warm(self, call: Callable[[], Any]) -> float:
        """Right after the same call."""

    @abstractmethod
    def cold(self, call: Callable[[], Any]) -> float | None:
        """With nothing of its inputs in the L2 cache; None where no such cache can be emptied."""


class CpuOpClock(OpClock):
    """The CPU's clock: calls work while they are called, and its caches are left alone."""

    def __init__(self) -> None:
        self.clock = CpuClock()

    def warm(self, call: Callable[[], Any]) -> float:
        call()
        return self.clock.time(call)[0]

    def cold(self, call: Callable[[], Any]) -> float | None:
        return None


class CudaOpClock(OpClock):
    """CUDA events behind a filled queue."""

    def __init__(self, device: str) -> None:
        self.clock = CudaClock(device, flush_l2=True)
        self.times = 1
        flushing = min(self.clock.time(self._flush)[0] for _ in range(5))
        self.times = max(1, round(FILLING_MS / max(flushing, 1e-3)))

    def warm(self, call: Callable[[], Any]) -> float:
        self._flush()
        call()
        return self._timed(call)

    def cold(self, call: Callable[[], Any]) -> float | None:
        self._flush()
        return self._timed(call)

    def _timed(self, call: Callable[[], Any]) -> float:
        start = self.clock.mark()
        result = call()
        milliseconds = self.clock.between([start, self.clock.mark()])[0]
        del result
        return milliseconds

    def _flush(self) -> None:
        assert self.clock.zeros is not None
        for _ in range(self.times):
            self.clock.zeros.zero_()


def op_clock_for(device: str) -> OpClock:
    """The clock of a device."""
    return CudaOpClock(device) if torch.device(device).type == "cuda" else CpuOpClock()
