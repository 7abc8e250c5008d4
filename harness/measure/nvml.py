"""What a GPU says about itself, through NVIDIA's own binding (`nvidia-ml-py`, an optional dependency).

Missing, it is said in the record's context; nothing is guessed from other sources.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from harness.records.conditions import Gpu

THROTTLE_REASONS = {
    0x04: "power cap",
    0x08: "hardware slow-down",
    0x20: "software thermal slow-down",
    0x40: "hardware thermal slow-down",
    0x80: "power brake",
}
"""Bits of nvmlClocksEventReasons (NVML API reference) that say that the clocks are lower than asked for.

Left out: idle (0x01), clocks set by somebody (0x02, 0x100) and sync boost (0x10), which are no disturbance.
"""


class GpuWatch:
    """Reads clocks, temperature, throttling and neighbours of one device."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml = nvml
        self.handle = handle

    @classmethod
    def of(cls, device: str) -> GpuWatch | None:
        """The watch of a torch device; None for a CPU, or when the binding or the driver's library is not there."""
        if not device.startswith("cuda"):
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no package, or its library is missing: it has an exception type of its own for that
            return None
        uuid = torch.cuda.get_device_properties(torch.device(device)).uuid  # NVML counts devices in another order
        return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))

    def read(self) -> Gpu:
        """The state now."""
        nvml, handle = self.nvml, self.handle
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return Gpu(
            sm_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            memory_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            celsius=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            throttled=[name for bit, name in THROTTLE_REASONS.items() if reasons & bit],
            others=self._others(),
        )

    def _others(self) -> int:
        """Processes besides this one; in a container, where ids are another namespace's, one of them is this one."""
        there = [process.pid for process in self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)]
        return len(there) - (os.getpid() in there or bool(there))
