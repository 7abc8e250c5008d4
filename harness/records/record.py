"""A number never travels alone: a record is a cell's outcome with everything that decided it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from harness.records.conditions import Conditions
from harness.records.statistics import STATISTICS
from harness.suite.variant import Variant

SCHEMA = 1
"""Version of the stored record and of the result document. Readers ignore keys that they do not know."""


class Status(StrEnum):
    """How a cell ended. Only `passed` carries timing."""

    PASSED = "passed"
    INCORRECT = "incorrect"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OOM = "oom"
    SKIPPED = "skipped"

    @property
    def fails_the_run(self) -> bool:
        """True for every status that makes `harness run` exit with 1."""
        return self not in (Status.PASSED, Status.UNSUPPORTED, Status.SKIPPED)


class Metric(msgspec.Struct, frozen=True, omit_defaults=True):
    """A measured quantity: its samples, or the reason why it may not be given. The value is derived, never stored."""

    unit: str = ""
    samples: list[float] = []
    statistic: str = "median"
    """How `value` is derived from the samples; a key of `STATISTICS`."""
    better: str = "lower"
    """`lower`, `higher` or `neither`."""
    withheld: str | None = None

    @property
    def value(self) -> float | None:
        """The statistic of the samples; None when withheld."""
        return None if self.withheld is not None or not self.samples else STATISTICS[self.statistic](self.samples)


class Block(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a timed cell: the samples that were taken in one go."""

    process: int
    """Which worker process took it, counted from 0; processes differ more than the blocks of one do."""
    round: int
    """Blocks of one round and process were taken next to each other by all variants."""
    position: int
    """Place in the round's random order."""
    seconds: float
    """Wall time, inputs and bookkeeping included."""
    counts: dict[str, int] = {}
    """Metric -> how many samples of it were taken."""
    conditions: Conditions = Conditions()
    dropped: bool = False
    """True when the machine was disturbed and the block was taken again: its samples are not among the metrics'."""
    samples: dict[str, list[float]] = {}
    """Of a dropped block only: metric -> samples. All others are in the metrics, in the order of the blocks."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of records.jsonl."""

    cell: str
    table: str
    variant: Variant
    workload: dict[str, Any]
    """The concrete workload: one length, one batch size, one task."""
    status: Status
    reasons: list[str] = []
    metrics: dict[str, Metric] = {}
    checkpoint: dict[str, Any] = {}
    """Name, content hash, model type and what was needed to make it."""
    resolved: dict[str, str] = {}
    """Operator slot -> implementation that really ran."""
    context: dict[str, Any] = {}
    """Machine, versions, threads, load, git state, text hash: whatever a reader needs to judge the numbers."""
    blocks: list[Block] = []
    """The turns of a timed cell, in the order in which they were taken; `harness.records.blocks` splits samples up."""
    output: str = ""
    """Tail of the worker's output when the cell did not pass."""
    samples_file: str | None = None
    """Per-document results, relative to the run folder."""
    identity: dict[str, str] = {}
    """Short hashes of everything that decided the value, by name: another run with the same ones need not measure."""
    schema: int = SCHEMA
