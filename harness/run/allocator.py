"""Keeps a worker's freed memory with it, so that chance does not decide what a call costs.

glibc gives free memory at the top of its heap back to the system, and whether the top is free when a call ends depends
on what happens to lie there: one process then faults all its buffers in again with every call, another none. A prefill
of the absorbed form under DSA took 0 to 7,000 page faults a call in six processes of the same code, and between 10%
less and 16% more time than the middle of them.

The parent sets it in the worker's environment, because a gate starts workers of other code versions as well.
"""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = "GLIBC_TUNABLES"
"""What glibc reads when a process starts; other C libraries do not know it."""

KEPT = "glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=33554432"
"""Up to 1 GiB of free memory stays at the top of the heap. What is larger than 32 MiB, glibc's highest limit, is mapped
and unmapped one by one all the same."""


def keeping_freed_memory(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with both limits set; what a user has set there counts for more, and glibc takes the last.

    >>> keeping_freed_memory({"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"})["GLIBC_TUNABLES"].split(":")[-1]
    'glibc.malloc.arena_max=1'
    """
    return {**environment, VARIABLE: ":".join(filter(None, [KEPT, environment.get(VARIABLE)]))}
