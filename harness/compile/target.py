"""What kernels are compiled for: a compute capability, its limits, and its matrix instructions."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import unknown


@dataclass(frozen=True)
class Target:
    """One generation of NVIDIA GPUs (CUDA C++ Programming Guide, section "Compute Capabilities")."""

    name: str
    """As in suites and in PTX: `sm_90`."""
    capability: tuple[int, int]
    shared_memory: int
    """Bytes of shared memory that one block can have at most."""
    instructions: str
    """The kind of matrix instructions that only this generation runs at full rate; see `INSTRUCTIONS`."""


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", (8, 0), 163 * 1024, "mma"),
        Target("sm_90", (9, 0), 227 * 1024, "wgmma"),
        Target("sm_100", (10, 0), 227 * 1024, "tcgen05"),
    )
}
"""Name -> what it is: A100, H100 and H200, B200."""


def target_of(name: str, where: str | None = None) -> Target:
    """The target of a name. Raises UsageError for an unknown one."""
    if name not in TARGETS:
        raise unknown("target", name, TARGETS, where)
    return TARGETS[name]
