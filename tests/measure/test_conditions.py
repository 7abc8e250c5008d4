"""What disturbs a block is read from the machine's own counters, on this machine and on planted ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.measure import nvml
from harness.measure.conditions import Watch
from harness.records.conditions import Conditions, Gpu


class Proc:
    """A /proc with planted counters, in ticks and nanoseconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "self" / "task" / "1").mkdir(parents=True)
        (folder / "self" / "task" / "2").mkdir(parents=True)

    def write(self, busy: int = 0, stolen: int = 0, waited: tuple[int, int] = (0, 0)) -> None:
        (self.folder / "stat").write_text(f"cpu  {busy} 0 0 500 0 0 0 {stolen} 0 0\ncpu0 1\ncpu1 1\nintr 5\n")
        for thread, nanoseconds in zip((1, 2), waited, strict=True):
            (self.folder / "self" / "task" / str(thread) / "schedstat").write_text(f"999 {nanoseconds} 3\n")


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Wall and own processor time that the test moves."""
    now = SimpleNamespace(wall=100.0, own=10.0)
    monkeypatch.setattr("harness.measure.conditions.time.perf_counter", lambda: now.wall)
    monkeypatch.setattr("harness.measure.conditions.time.process_time", lambda: now.own)
    return now


def test_counters_become_shares(tmp_path: Path, clocks: SimpleNamespace) -> None:
    proc, tick = Proc(tmp_path), os.sysconf("SC_CLK_TCK")
    proc.write(busy=1000, stolen=7, waited=(10**9, 0))
    watch = Watch(proc=tmp_path)
    watch.start()
    proc.write(busy=1000 + 3 * tick, stolen=7 + tick // 2, waited=(10**9 + 2 * 10**8, 10**8))
    clocks.wall, clocks.own = 102.0, 11.5
    assert watch.stop() == Conditions(waited=0.15, stolen=0.125, others=0.75, cpu_mhz=watch.stop().cpu_mhz)


def test_a_system_that_tells_nothing_is_no_disturbance(tmp_path: Path) -> None:
    watch = Watch(proc=tmp_path)
    watch.start()
    told = watch.stop()
    assert (told.waited, told.stolen, told.others) == (None, None, None)
    assert told.disturbances == []


def test_waiting_for_a_processor_is_seen_here() -> None:
    """Two busy threads on one processor: each waits about half of the time."""
    if not Path("/proc/self/schedstat").exists() or not hasattr(os, "sched_setaffinity"):
        pytest.skip("this kernel does not tell how long a process waits")
    script = "import time\nend = time.perf_counter() + 20\nwhile time.perf_counter() < end: pass"
    processor = min(os.sched_getaffinity(0))
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    rival = subprocess.Popen([sys.executable, "-c", script])
    try:
        time.sleep(0.3)
        watch = Watch()
        watch.start()
        end = time.perf_counter() + 1.0
        while time.perf_counter() < end:
            pass
        waited = watch.stop().waited
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, former)
    assert waited is not None
    assert waited > 0.2


def test_sleeping_is_not_waiting() -> None:
    watch = Watch()
    watch.start()
    threading.Event().wait(0.2)
    waited = watch.stop().waited
    assert waited is None or waited < 0.2


@pytest.mark.parametrize(
    ("conditions", "reasons"),
    [
        (Conditions(waited=0.04, stolen=0.04, others=1.9), []),
        (Conditions(waited=0.06), ["waited for a processor: 6%"]),
        (Conditions(stolen=0.5), ["time stolen by other guests: 50%"]),
        (Conditions(gpu=Gpu(1980, 2619, 60)), []),
        (
            Conditions(gpu=Gpu(900, 2619, 92, throttled=["power cap"], others=2)),
            ["GPU clocks held down: power cap", "2 other processes on the GPU"],
        ),
    ],
)
def test_what_discredits_a_block(conditions: Conditions, reasons: list[str]) -> None:
    assert conditions.disturbances == reasons


# --- a planted NVML ---------------------------------------------------------------------------------


class PlantedNvml:
    """The functions of `pynvml` that are used, for one device."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, reasons: int = 0, pids: tuple[int, ...] = ()) -> None:
        self.reasons = reasons
        self.pids = pids

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetClockInfo(self, _: Any, kind: int) -> int:  # noqa: N802
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetTemperature(self, _: Any, kind: int) -> int:  # noqa: N802
        return 61 if kind == 0 else -1

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: Any) -> int:  # noqa: N802
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, _: Any) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.pids]


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="ab-cd"))


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_found_by_its_uuid_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = PlantedNvml(reasons=0x01 | 0x04 | 0x40, pids=(os.getpid(), 7))
    monkeypatch.setitem(sys.modules, "pynvml", planted)  # type: ignore[arg-type]
    watch = nvml.GpuWatch.of("cuda:0")
    assert watch is not None
    assert watch.handle == "GPU-ab-cd"
    assert watch.read() == Gpu(1980, 2619, 61, ["power cap", "hardware thermal slow-down"], 1)


@pytest.mark.parametrize(("pids", "others"), [((), 0), ((os.getpid(),), 0), ((99_999_999,), 0), ((1, 2), 1)])
def test_neighbours_are_counted_without_the_worker_itself(pids: tuple[int, ...], others: int) -> None:
    assert nvml.GpuWatch(PlantedNvml(pids=pids), "x").read().others == others


def test_no_binding_or_no_gpu_is_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.GpuWatch.of("cuda") is None
    assert nvml.GpuWatch.of("cpu") is None
