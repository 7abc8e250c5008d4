"""What a compiled kernel says about itself: read from PTX, from machine code, and from what `cuobjdump` tells."""

from __future__ import annotations

import re
from collections import Counter

import msgspec

INSTRUCTIONS = {
    "mma": (re.compile(r"\bw?mma\.sync\b"), re.compile(r"\b[HIDQ]MMA\b")),
    "wgmma": (re.compile(r"\bwgmma\.mma_async\b"), re.compile(r"\b[HIQ]GMMA\b")),
    "tcgen05": (re.compile(r"\btcgen05\.mma\b"), re.compile(r"\bUTC[A-Z]*MMA\b")),
}
"""Kind of matrix instruction -> its name in PTX (PTX ISA, chapter 9.7) and in machine code as `nvdisasm` prints it."""

_PTX_VERSION = re.compile(r"^\.version\s+(\S+)", re.MULTILINE)
_USAGE = re.compile(r"\b(REG|STACK|LOCAL):(\d+)")
_LOCAL_ACCESS = re.compile(r"\b(?:LDL|STL)\b")
_OPERATION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", re.MULTILINE)


class BuildFacts(msgspec.Struct, frozen=True):
    """What came out of compiling one `KernelBuild` for one target."""

    build: str
    """Name of the build."""
    operator: str
    target: str
    failure: str | None = None
    """Why it does not compile; all facts below are then 0 or empty."""
    registers: int = 0
    """32-bit registers of a thread."""
    spills: int = 0
    """Bytes of stack and local memory of a thread: spilled registers, and arrays that found no room in registers."""
    local_accesses: int = 0
    """Loads and stores of local memory in the machine code."""
    shared_memory: int = 0
    """Bytes of shared memory of a block."""
    shared_limit: int = 0
    """Bytes of shared memory that the target allows a block."""
    matrix_product: bool = False
    """Whether the build says that it has a matrix product."""
    instructions: dict[str, int] = {}
    """Kind of matrix instruction (`mma`, `wgmma`, `tcgen05`) -> how many of them the machine code has.

    Only kinds that both PTX and machine code have: what a comment or a dropped branch mentions does not count."""
    operations: int = 0
    """Instructions of the machine code."""
    ptx_version: str = ""
    compiler: str = ""
    """Such as `triton 3.6.0`."""

    @property
    def fits(self) -> bool:
        """Whether its shared memory is within the target's limit."""
        return self.shared_memory <= self.shared_limit


def ptx_version(ptx: str) -> str:
    """The version that PTX was written in, such as `8.7`; empty where it does not say."""
    found = _PTX_VERSION.search(ptx)
    return found.group(1) if found else ""


def matrix_instructions(ptx: str, code: str) -> dict[str, int]:
    """Kind -> how many machine instructions of it there are, for kinds that stand in the PTX, too."""
    counts = {kind: len(machine.findall(code)) for kind, (_, machine) in INSTRUCTIONS.items()}
    return {kind: count for kind, count in counts.items() if count and INSTRUCTIONS[kind][0].search(ptx)}


def usage(text: str) -> dict[str, int]:
    """`REG`, `STACK` and `LOCAL` of the only function in what `cuobjdump -res-usage` prints. Raises ValueError."""
    found = Counter({name: int(value) for name, value in _USAGE.findall(text)})
    if "REG" not in found:
        raise ValueError(f"cuobjdump tells no register count: {text.strip()[:200]!r}")
    return found


def local_accesses(code: str) -> int:
    """Loads and stores of local memory in machine code."""
    return len(_LOCAL_ACCESS.findall(code))


def operations(code: str) -> int:
    """How many instructions machine code has."""
    return len(_OPERATION.findall(code))
