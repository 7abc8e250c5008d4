"""What parent and worker say to each other: one JSON object a line, requests down stdin, replies up a private pipe.

Each request gets any number of `Progress` and then exactly one other reply.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from harness.contract.planted import Planted
from harness.records.conditions import Conditions
from harness.records.record import Metric, Status
from harness.suite.cell import CellId
from harness.suite.schema import Workload
from harness.suite.variant import Variant

PROTOCOL = 2
"""Version of what is said here. Version 1 had no number and kept the samples of a turn until the end."""

PARENT_CONTEXT = (
    "machine",
    "versions",
    "git",
    "device",
    "threads",
    "seed",
    "interleaved",
    "seconds",
    "turns",
    "one_processor",
    "load_before",
    "load_after",
)
"""Keys of a record's context that the parent gives; no plugin may give them as well."""


class Message(msgspec.Struct, frozen=True, tag=str.lower):
    """Base of everything on the wire; the type is the class name in lower case."""


# --- requests ---------------------------------------------------------------------------------------


class Load(Message, frozen=True):
    """Build the variant's runner. Sent once, first. Answered by `Ready`."""

    checkpoint: str
    variant: Variant
    device: str
    threads: int
    seed: int
    plugins: list[str]
    folder: str
    """The run's scratch folder."""
    root: str
    """The checkout (or site-packages) that both packages have to come from."""
    planted: Planted | None = None
    """A defect to put into this variant on purpose: the gate's controls and its self-test."""
    model: bool = True
    """False when no cell of the table needs weights: then none are loaded."""
    fresh: bool = False
    """Whether nothing that was found out before may answer, such as cached facts of kernels."""


class Open(Message, frozen=True):
    """Set up one cell and warm it up. Answered by `Opened`."""

    cell: CellId
    workload: Workload
    reference: str | None
    warmup: int
    """Untimed repetitions, at least."""
    warmup_limit: int = 0
    """Untimed repetitions, at most, while each is still faster than those before; never fewer than `warmup`."""
    flush_l2: bool = False
    own_time: bool = False
    """Leave out of CPU times what the worker waited for a processor that other processes had."""


class Block(Message, frozen=True):
    """One turn of the open cell: `samples` timed repetitions. Answered by `Done`."""

    samples: int
    inputs: int | None = None
    """Number of the first repetition: equal numbers draw equal inputs in every worker. None draws new ones.

    The closing turn of a cell in a process has negative ones, up to -1."""


class Finish(Message, frozen=True):
    """Check the open cell's answer and report. Answered by `Result`."""


Request: TypeAlias = Load | Open | Block | Finish


# --- replies ----------------------------------------------------------------------------------------


class Ready(Message, frozen=True):
    """The runner is built."""

    resolved: dict[str, str]
    context: dict[str, Any]
    """What every record of this worker carries: threads, framework settings, plugins' facts."""
    protocol: int = 1
    """The worker's `PROTOCOL`; workers of version 1 do not say."""
    roots: dict[str, str] = {}
    """Package -> folder that it was loaded from."""


class Opened(Message, frozen=True):
    """The cell is warm; `timed` says whether it takes turns."""

    timed: bool
    loading_seconds: float = 0.0
    """Importing what this kind of cell needs, when it is the worker's first."""
    warmup_seconds: float = 0.0
    repetition_seconds: float = 0.0
    """Of the last warm-up repetition, inputs and bookkeeping included; 0 without a warm-up."""


class Done(Message, frozen=True):
    """A turn is over."""

    samples: dict[str, list[float]] = {}
    """Metric -> what was measured, in the order in which it was; empty for metrics that may not be given."""
    seconds: float = 0.0
    """Wall time of the turn's repetitions, inputs and bookkeeping included."""
    conditions: Conditions = Conditions()
    """What the machine was like meanwhile."""


class Result(Message, frozen=True):
    """A cell's outcome, as `harness.measure.measurement.Outcome`."""

    status: Status
    reasons: list[str]
    metrics: dict[str, Metric]
    context: dict[str, Any]
    documents: list[dict[str, Any]] | None


class Progress(Message, frozen=True):
    """How far the present request is, 0 to 1, and what is being done."""

    fraction: float
    text: str


class Error(Message, frozen=True):
    """The request failed; the worker is still there."""

    status: Status
    reasons: list[str]
    output: str = ""
    """Tail of the traceback."""
    usage: bool = False
    """True when the input is to blame (`UsageError`): the message is complete and needs no traceback."""


Reply: TypeAlias = Ready | Opened | Done | Result | Progress | Error


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return msgspec.json.encode(message) + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises msgspec.DecodeError for anything else."""
    return msgspec.json.decode(line, type=Request)


def decode_reply(line: bytes) -> Reply:
    """Raises msgspec.DecodeError for anything else."""
    return msgspec.json.decode(line, type=Reply)
