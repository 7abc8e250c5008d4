"""Watches the machine while a block of samples is taken: the kernel's counters before and after, a GPU's at the end.

Read in the worker itself, outside every timed call, so that nothing runs beside what is measured.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from harness.measure.nvml import GpuWatch
from harness.records.conditions import Conditions

PROC = Path("/proc")
CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
"""Present clock of the first processor in kHz; virtual machines mostly have none."""


@dataclass(frozen=True)
class _Counters:
    """Seconds since some start; None where this system does not tell."""

    wall: float
    own: float
    waited: float | None
    busy: float | None
    stolen: float | None
    processors: int


class Watch:
    """`start` before a block, `stop` after it."""

    def __init__(self, gpu: GpuWatch | None = None, proc: Path = PROC) -> None:
        self.gpu = gpu
        self.proc = proc
        self._before = self._read()

    def start(self) -> None:
        """A block begins."""
        self._before = self._read()

    def stop(self) -> Conditions:
        """A block has ended."""
        before, after = self._before, self._read()
        wall = max(after.wall - before.wall, 1e-9)
        busy, own = _difference(after.busy, before.busy), after.own - before.own
        waited, stolen = _difference(after.waited, before.waited), _difference(after.stolen, before.stolen)
        return Conditions(
            waited=_rounded(waited, wall),
            stolen=_rounded(stolen, wall * after.processors),
            others=None if busy is None else _rounded(max(0.0, busy - own), wall),
            cpu_mhz=self._mhz(),
            gpu=self.gpu.read() if self.gpu else None,
        )

    def _read(self) -> _Counters:
        waited = self._waited()
        busy, stolen, processors = self._processors()
        return _Counters(time.perf_counter(), time.process_time(), waited, busy, stolen, processors)

    def _waited(self) -> float | None:
        """Seconds that all threads of this process have been ready and not running (second field of schedstat)."""
        total, told = 0, False
        tasks = f"{self.proc}/self/task"
        for thread in _names(tasks):  # strings: paths take longer than the kernel, and this is read around every turn
            try:
                with open(f"{tasks}/{thread}/schedstat", "rb", buffering=0) as file:
                    total += int(file.read().split()[1])
                told = True
            except (OSError, IndexError, ValueError):
                continue  # a thread that has just ended, or a kernel without these statistics
        return total / 1e9 if told else None

    def _processors(self) -> tuple[float | None, float | None, int]:
        """Seconds that all processors together were busy and stolen (proc(5), /proc/stat), and how many there are."""
        try:
            lines = (self.proc / "stat").read_text().splitlines()
            user, nice, system, _, _, irq, softirq, steal = (int(text) for text in lines[0].split()[1:9])
        except (OSError, IndexError, ValueError):
            return None, None, 1
        tick = os.sysconf("SC_CLK_TCK")
        processors = sum(line.startswith("cpu") for line in lines) - 1
        return (user + nice + system + irq + softirq) / tick, steal / tick, max(1, processors)

    def _mhz(self) -> float | None:
        try:
            return round(int(CLOCK.read_text()) / 1000)
        except (OSError, ValueError):
            return None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else max(0.0, after - before)


def _rounded(part: float | None, whole: float) -> float | None:
    return None if part is None else round(part / whole, 4)
