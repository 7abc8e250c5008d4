"""Recorded timings on which decision rules are replayed: real cells, planted slow-downs, live workers, restarts.

A trace is one file, `results/traces/<load>.jsonl.gz`: a header line, then one line a session. Each line is a gzip
member of its own, so that recording resumes by appending and a killed recorder costs at most its last session.

In a session every variant has a fresh worker. Turns are taken as the live gate takes them: in pairs of a variant and
`base`, next to each other, a coin deciding who goes first, many pairs of one variant in a row. Rounds go through the
variants in a new random order; what takes more to decide has more pairs. `same` is the
same code as `base`. Times are whole
microseconds of the gate's own clock, which leaves out what a turn waited for a processor that others had.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.contract.planted import Planted
from harness.errors import UsageError
from harness.suite.schema import Decode, Prefill

BASE, SAME, BIMODAL = "base", "same", "bimodal"

SLOWER = {BASE: 0.0, SAME: 0.0, "+3%": 0.03, "+5%": 0.05, "+10%": 0.10, BIMODAL: 0.05}
"""Variant -> how much longer it works on average; half of the calls of `bimodal` by twice that."""

PAIRS_A_ROUND = {SAME: 14, "+3%": 46, "+5%": 26, "+10%": 15, BIMODAL: 35}
"""Variant -> pairs with `base` in every round, one after the other."""


class TracedCell(msgspec.Struct, frozen=True):
    """One cell of a trace."""

    name: str
    workload: Prefill | Decode
    metric: str
    """The timing that is kept, in ms as the worker reports it."""
    samples: int
    """Repetitions a turn; a decode repetition gives one sample a step."""
    spaced: bool = False
    """Whether no turn follows one of the same worker: where it would, the other repeats once, uncounted."""


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    name: str
    neighbours: int
    """Competing processes that ran beside the recording."""
    checkpoint: str
    variant: str
    seed: int
    cells: list[TracedCell]
    planted: dict[str, Planted]
    """Of every variant."""
    context: dict[str, Any]
    """Machine, versions and git state, as in a run's header."""
    started: str
    beside: str = ""
    """What else ran on the machine on purpose, in words."""
    schema: int = 2


class Pairs(msgspec.Struct):
    """A variant beside `base`, pair by pair in the order in which they were taken."""

    own_first: list[bool] = []
    base: list[list[int]] = []
    """[pair][sample]."""
    own: list[list[int]] = []
    """[pair][sample]."""
    lost: list[int] = []
    """Percent of the worse of the two turns that it waited for a processor or that other guests stole."""


class CellTurns(msgspec.Struct, frozen=True):
    """One cell in one session."""

    turn_seconds: float
    """Mean wall time of one turn, messages included, as the parent saw it."""
    pairs: dict[str, Pairs]
    """By variant, without `base`."""


class Session(msgspec.Struct, frozen=True):
    """One line: every variant in a fresh worker."""

    number: int
    started: float
    """Seconds since the epoch."""
    start_seconds: float
    """Wall time until all workers were ready."""
    seconds: float
    """Wall time of the whole session."""
    load: list[float]
    """Load averages at its end."""
    cells: dict[str, CellTurns]


@dataclass(frozen=True)
class Trace:
    """A whole recording."""

    header: Header
    sessions: list[Session]

    @property
    def seconds(self) -> float:
        """Time recorded so far."""
        return sum(session.seconds for session in self.sessions)

    def pairs(self, cell: str, variant: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Milliseconds [pairs, samples] of `base` and of a variant, session by session."""
        found = [session.cells[cell].pairs[variant] for session in self.sessions]
        return [(np.array(pairs.base) / 1e3, np.array(pairs.own) / 1e3) for pairs in found]

    def lost(self, cell: str, variant: str) -> list[np.ndarray]:
        """Share of the worse turn of each pair that went to others, session by session."""
        return [np.array(session.cells[cell].pairs[variant].lost) / 100 for session in self.sessions]

    def turn_seconds(self, cell: str) -> float:
        """Wall time of one turn, averaged over the sessions."""
        return float(np.mean([session.cells[cell].turn_seconds for session in self.sessions]))


def read_trace(path: Path) -> Trace:
    """A stored trace; an incomplete last line is left out. Raises UsageError when it is none."""
    lines = _lines(path)
    try:
        header = msgspec.json.decode(lines[0], type=Header)
        return Trace(header, [msgspec.json.decode(line, type=Session) for line in lines[1:]])
    except (IndexError, msgspec.DecodeError) as error:
        raise UsageError(f"is no trace: {error}", str(path)) from None


def append(path: Path, line: Header | Session) -> None:
    """Add one line, after cutting off what a killed recorder left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _whole_bytes(path.read_bytes()) if path.exists() else 0
    with path.open("ab") as file:
        file.truncate(whole)
        file.write(gzip.compress(msgspec.json.encode(line) + b"\n", mtime=0))


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", str(path)) from None
    whole = content[: _whole_bytes(content)]
    return gzip.decompress(whole).splitlines() if whole else []


def _whole_bytes(content: bytes) -> int:
    """Length of all gzip members that are complete."""
    whole, rest = 0, content
    while rest:
        member = zlib.decompressobj(wbits=31)
        try:
            member.decompress(rest)
        except zlib.error:
            break
        if not member.eof:
            break
        whole, rest = len(content) - len(member.unused_data), member.unused_data
    return whole
