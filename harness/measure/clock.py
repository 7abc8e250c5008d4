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


def clock_for(device: str, flush_l2: bool = False) -> Clock:
    """The clock of a device: `cpu`, or `cuda` with or without a number. Only a GPU's cache can be flushed."""
    return CudaClock(device, flush_l2) if device.startswith("cuda") else CpuClock()
