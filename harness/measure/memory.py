"""Peak memory of a region: of the process on a CPU, of the allocator on CUDA.

A child's `ru_maxrss` starts at its parent's peak, so it cannot be used: the kernel's own high-water mark
(`VmHWM`) is reset through `/proc/self/clear_refs` and read back (proc(5)).
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What `clear_refs` takes to set VmHWM to the present resident size, without touching any page (Linux >= 4.0)."""


class MemoryMeter(ABC):
    """Reads the peak since the last `reset`, and what was resident when the meter was made."""

    def __init__(self) -> None:
        self.resident: int | None = self._resident()
        """Bytes in use before the cell allocated anything: weights, runtime and libraries; None when unknown."""

    @abstractmethod
    def _resident(self) -> int | None: ...

    @abstractmethod
    def release(self) -> None:
        """Give freed memory back to the system, so that the next peak does not count it."""

    @abstractmethod
    def reset(self) -> None:
        """Start a new region: forget the former peak."""

    @abstractmethod
    def peak(self) -> int | None:
        """Highest bytes in use since `reset`; None when this system cannot tell."""


class ProcessMemory(MemoryMeter):
    """Resident bytes of this process (Linux)."""

    def _resident(self) -> int | None:
        self.release()
        return _status_bytes("VmRSS")

    def release(self) -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries need none
        if trim is not None:
            trim(0)

    def reset(self) -> None:
        self._can_reset = _write(CLEAR_REFS, RESET_PEAK)

    def peak(self) -> int | None:
        return _status_bytes("VmHWM") if self._can_reset else None


class CudaMemory(MemoryMeter):
    """Bytes that PyTorch's allocator has handed out on one device."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        super().__init__()

    def _resident(self) -> int | None:
        return torch.cuda.memory_allocated(self.device)

    def release(self) -> None:
        """Nothing to do: only what is handed out counts, not what the allocator keeps."""

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device)


def memory_for(device: str) -> MemoryMeter:
    """The meter of a device: `cpu`, or `cuda` with or without a number."""
    return CudaMemory(device) if device.startswith("cuda") else ProcessMemory()


def _status_bytes(field: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(values[0]) * 1024 if values else None


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
