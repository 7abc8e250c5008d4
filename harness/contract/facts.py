"""Plain facts about a machine: what an option may look at before it says whether it can run here."""

from __future__ import annotations

import msgspec


class MachineFacts(msgspec.Struct, frozen=True):
    """Torch-free and serialisable. Collected by `harness.run.machine`, faked freely in tests."""

    system: str
    """Operating system, such as `Linux`."""
    architecture: str
    """Processor architecture, such as `x86_64`."""
    cpu_model: str
    cpu_count: int
    memory_bytes: int
    device: str
    """The device that the run asks for: `cpu` or `cuda`."""
    gpu_name: str | None = None
    gpu_memory_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    """(9, 0) on Hopper; None without a GPU."""
    packages: dict[str, str] = {}
    """Installed version by distribution name: torch, triton, transformers, lm_eval ..."""
