"""Clocks. One for the CPU, one for CUDA; both give milliseconds between marks."""

from __future__ import annotations

import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

SCHEDSTAT = Path("/proc/thread-self/schedstat")


class Clock(ABC):
    """Marks moments on a device and tells the time between them."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until the device has nothing left to do."""

    @abstractmethod
    def mark(self) -> Any:
        """This moment, behind all work that was given to the device so far."""

    @abstractmethod
    def between(self, marks: Sequence[Any]) -> list[float]:
        """Milliseconds between neighbouring marks; waits for the last one."""

    def time(self, call: Callable[[], T]) -> tuple[float, T]:
        """Milliseconds from an idle device to the end of `call`'s work, launches included, and its result."""
        self.settle()
        start = self.mark()
        result = call()
        return self.between([start, self.mark()])[0], result


class CpuClock(Clock):
    """`time.perf_counter`: monotonic, so that a stepped wall clock cannot make a sample negative."""

    def settle(self) -> None:
        """The CPU works while it is called: nothing to wait for."""

    def mark(self) -> float:
        return time.perf_counter()

    def between(self, marks: Sequence[float]) -> list[float]:
        return [1e3 * (after - before) for before, after in pairwise(marks)]


@dataclass(frozen=True)
class Moment:
    """A mark of `OwnTimeClock`, in seconds since some start."""

    wall: float
    waited: float
    """That this thread has been ready to run while its processor did something else."""
    others: float
    """Processor time of this process's other threads."""


class OwnTimeClock(Clock):
    """Wall time less what the calling thread waited for a processor that other processes had.

    Made for telling two versions of one code apart on a machine that others use as well: the neighbours' share of a
    time says nothing about either. Sleeping, input, output and locks count. Waiting counts as far as other
    threads of this process worked meanwhile, because then the code may have been in its own way. The kernel's
    run-queue delay (second field of schedstat, Linux) is exact to nanoseconds and read in about a microsecond.
    """

    def __init__(self, schedstat: Path = SCHEDSTAT) -> None:
        """Made in the thread that is timed. Raises OSError where the kernel keeps no such count."""
        self.file = os.open(schedstat, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        self._waited()

    def settle(self) -> None:
        """The CPU works while it is called: nothing to wait for."""

    def mark(self) -> Moment:
        """This moment; read again when the thread lost its processor between the clocks."""
        while True:
            waited = self._waited()
            moment = Moment(time.perf_counter(), waited, time.process_time() - time.thread_time())
            if self._waited() == waited:
                return moment

    def between(self, marks: Sequence[Moment]) -> list[float]:
        return [1e3 * _own_seconds(before, after) for before, after in pairwise(marks)]

    def _waited(self) -> float:
        return int(os.pread(self.file, 64, 0).split()[1]) / 1e9


def _own_seconds(before: Moment, after: Moment) -> float:
    waited, others = after.waited - before.waited, after.others - before.others
    return after.wall - before.wall - max(0.0, waited - others)


class CudaClock(Clock):
    """CUDA events on the current stream of `device`; with `flush_l2`, every call starts with an L2 cache of zeros."""

    def __init__(self, device: str, flush_l2: bool = False) -> None:
        self.device = torch.device(device)
        self.zeros = self._twice_the_cache() if flush_l2 else None

    def settle(self) -> None:
        if self.zeros is not None:
            self.zeros.zero_()
        torch.cuda.synchronize(self.device)

    def _twice_the_cache(self) -> torch.Tensor:
        """As much memory as is sure to replace whatever the cache holds."""
        size = torch.cuda.get_device_properties(self.device).L2_cache_size
        return torch.empty(2 * size, dtype=torch.uint8, device=self.device)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        marks[-1].synchronize()
        return [before.elapsed_time(after) for before, after in pairwise(marks)]


def clock_for(device: str, flush_l2: bool = False, own_time: bool = False) -> Clock:
    """The clock of a device: `cpu`, or `cuda` with or without a number.

    Only a GPU's cache can be flushed; only a CPU's neighbours can be left out, where the kernel tells about them.
    """
    if device.startswith("cuda"):
        return CudaClock(device, flush_l2)
    if own_time:
        with suppress(OSError, IndexError, ValueError):
            return OwnTimeClock()
    return CpuClock()
