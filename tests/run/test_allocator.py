"""Freed memory stays with a worker: the next call finds it without a page fault."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.run.allocator import KEPT, VARIABLE, keeping_freed_memory

CALLS = """
import resource
def call():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [bytearray(1 << 20) for _ in range(64)]
    del buffers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
call()
print(call())
"""


def faults(environment: dict[str, str]) -> int:
    """Page faults of the second of two calls that take 64 MiB and give them back, in a process of their own."""
    done = subprocess.run([sys.executable, "-c", CALLS], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="these are glibc's limits")
def test_the_second_call_finds_the_memory_of_the_first() -> None:
    bare = {key: value for key, value in os.environ.items() if key != VARIABLE}
    assert faults(bare) > 1000, "without it the system gets everything back"
    assert faults(keeping_freed_memory(bare)) < 100


def test_what_a_user_has_set_counts_for_more() -> None:
    given = "glibc.malloc.trim_threshold=1"
    assert keeping_freed_memory({VARIABLE: given, "A": "b"}) == {VARIABLE: f"{KEPT}:{given}", "A": "b"}
    assert keeping_freed_memory({}) == {VARIABLE: KEPT}
