"""A compiling process: `python -P -m harness.compile.process`. Told a kernel set, then build after build, by the pool.

A crash of the compiler ends this process and nothing else. Lines of JSON down stdin, one line of facts up for each;
whatever Triton or LLVM print goes to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

import msgspec


class Job(msgspec.Struct, frozen=True):
    """One build to compile."""

    kernels: str
    """Name of the option on the axis `kernels`."""
    plugins: Sequence[str]
    target: str
    build: str


def main() -> None:
    """Answer jobs until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies)


def serve(jobs: BinaryIO, replies: BinaryIO) -> None:
    """One line of `BuildFacts` for every line of `Job`."""
    from harness.compile.builds import KernelSet
    from harness.compile.compiler import compile_build
    from harness.compile.target import TARGETS

    for line in jobs:
        job = msgspec.json.decode(line, type=Job)
        target = TARGETS[job.target]
        build = KernelSet.load(job.kernels, tuple(job.plugins)).build(job.build, target)
        replies.write(msgspec.json.encode(compile_build(build, target)) + b"\n")


if __name__ == "__main__":
    main()
