"""Clocks. One for the CPU, one for CUDA; both give milliseconds between marks."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch

T = TypeVar("T")


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


class CudaClock(Clock):
    """CUDA events on the current stream of `device`."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def settle(self) -> None:
        torch.cuda.synchronize(self.device)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        marks[-1].synchronize()
        return [before.elapsed_time(after) for before, after in pairwise(marks)]


def clock_for(device: str) -> Clock:
    """The clock of a device: `cpu`, or `cuda` with or without a number."""
    return CudaClock(device) if device.startswith("cuda") else CpuClock()
