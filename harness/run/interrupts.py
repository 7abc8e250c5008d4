"""Ctrl-C: the first ends the run cleanly, the second at once. Writing is never cut in half by either."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from harness.errors import EXIT_INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible(last_act: Callable[[], None]) -> Iterator[None]:
    """Inside, the first SIGINT or SIGTERM raises KeyboardInterrupt; a second does `last_act` and ends the process."""

    def at_once(_: int, __: FrameType | None) -> None:
        last_act()
        os._exit(EXIT_INTERRUPTED)

    def cleanly(_: int, __: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, at_once)
        raise KeyboardInterrupt

    former = {number: signal.signal(number, cleanly) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Hold signals back until what is inside is done whole."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
