"""What a machine was like while a block of samples was taken, and when that discredits the block. Torch-free.

Judged by the machine's own counters alone, never by the samples: leaving out what merely looks slow would make every
result faster than it is.
"""

from __future__ import annotations

import msgspec

WAITED = 0.05
"""Share of a block's time spent waiting for a processor from which the block is disturbed."""
STOLEN = 0.05
"""Share of the processors' time that went to other guests of the machine from which a block is disturbed."""


class Gpu(msgspec.Struct, frozen=True, omit_defaults=True):
    """A GPU at the end of a block, by NVML."""

    sm_mhz: int
    memory_mhz: int
    celsius: int
    throttled: list[str] = []
    """Reasons that hold its clocks down: power, heat, brake; never that it is idle or that somebody set the clocks."""
    others: int = 0
    """Processes besides the worker that compute on it."""


class Conditions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The machine during one block. None: this system does not tell."""

    waited: float | None = None
    """Share of the wall time in which the worker could have run and other processes did; above 1 with many threads."""
    stolen: float | None = None
    """Share of all processors' time that the hypervisor gave to other guests."""
    others: float | None = None
    """Processors that other processes kept busy, on average."""
    cpu_mhz: float | None = None
    """Clock of the first processor at the end of the block."""
    gpu: Gpu | None = None

    @property
    def disturbances(self) -> list[str]:
        """Every reason why the block says less about the code than about the machine; empty when undisturbed."""
        shares = {"waited for a processor": (self.waited, WAITED), "time stolen by other guests": (self.stolen, STOLEN)}
        found = [f"{what}: {share:.0%}" for what, (share, limit) in shares.items() if share and share > limit]
        if self.gpu and self.gpu.throttled:
            found.append(f"GPU clocks held down: {', '.join(self.gpu.throttled)}")
        if self.gpu and self.gpu.others:
            found.append(f"{self.gpu.others} other processes on the GPU")
        return found
