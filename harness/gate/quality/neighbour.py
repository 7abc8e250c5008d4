"""A competing process: bursts of matrix products and of memory traffic, with pauses, all drawn from a seed.

`python -m harness.gate.quality.neighbour SEED` runs until it is killed. It is what a shared runner has: another job
that comes and goes within seconds, and takes a core, the caches and the memory bus with it.
"""

from __future__ import annotations

import random
import sys
import time

import numpy as np

LONGEST_BURST, LONGEST_PAUSE = 6.0, 6.0
"""Seconds."""

SIDE = 384
STREAMED_FLOATS = 8_000_000


def compete(draw: random.Random, seconds: float) -> None:
    """Work in bursts until `seconds` are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        burst = _products if draw.random() < 0.5 else _streams
        burst(time.monotonic() + draw.uniform(0, LONGEST_BURST))
        time.sleep(draw.uniform(0, LONGEST_PAUSE))


def _products(end: float) -> None:
    left = np.full((SIDE, SIDE), 1 / SIDE)
    while time.monotonic() < end:
        left = left @ left  # stays 1 / SIDE everywhere


def _streams(end: float) -> None:
    there, back = np.zeros(STREAMED_FLOATS), np.empty(STREAMED_FLOATS)
    while time.monotonic() < end:
        np.copyto(back, there)


if __name__ == "__main__":
    compete(random.Random(sys.argv[1]), float("inf"))
