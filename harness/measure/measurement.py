"""What a worker does with a cell: warm it up, give it timed turns, then check its answer and report.

A measurement is opened once per cell and lives in the worker of its variant. The parent decides who gets
the next turn; nothing in here knows about rounds, other variants or processes.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from harness.contract.runner import Runner
from harness.errors import unknown
from harness.records.record import Metric, Status
from harness.suite.cell import CellId
from harness.suite.schema import Workload

T = TypeVar("T")

KINDS = {
    "prefill": "harness.measure.prefill:PrefillMeasurement",
    "decode": "harness.measure.decode:DecodeMeasurement",
    "generate": "harness.measure.generate:GenerateMeasurement",
    "equivalence": "harness.measure.equivalence:EquivalenceMeasurement",
    "accuracy": "harness.measure.accuracy:AccuracyMeasurement",
    "op": "harness.measure.op:OpMeasurement",
    "compile": "harness.measure.compile:CompileMeasurement",
}
"""Workload kind -> the class that measures it; imported when the first cell of that kind is opened."""


def no_progress(fraction: float, text: str) -> None:
    """A listener that ignores what it hears."""


class Shared:
    """What measurements of one worker share because it costs much to make, such as measured ceilings."""

    def __init__(self) -> None:
        self.ends = ExitStack()
        """What has to be done when the worker ends."""
        self._made: dict[type, Any] = {}

    def get(self, kind: type[T], make: Callable[[ExitStack], T]) -> T:
        """The only object of a kind, made when it is first asked for."""
        if kind not in self._made:
            self._made[kind] = make(self.ends)
        found: T = self._made[kind]
        return found


@dataclass(frozen=True)
class Bench:
    """Where a measurement stands: a built runner, and what it needs to know about this run."""

    runner: Runner
    parts: Mapping[str, object]
    """The loaded option of every axis but the engine, such as `parts["decoding"]`."""
    checkpoint: str
    """A Hugging Face directory, or the name of a preset."""
    seed: int
    """The suite's seed: all prompts follow from it, so that every variant sees the same ones."""
    device: str
    folder: Path
    """This run's scratch folder, shared by all workers: outputs that other cells are held against."""
    reference: str | None = None
    """Id of the cell whose stored outputs this cell is held against; None when it is the first of its kind."""
    progress: Callable[[float, str], None] = no_progress
    """Told how far a long step is (0 to 1) and what it is."""
    flush_l2: bool = False
    """Whether a GPU's L2 cache is overwritten before every timed call."""
    own_time: bool = False
    """Whether a CPU's clock leaves out waiting for a processor that other processes had."""
    threads: int = 1
    """Processors that this run may use."""
    plugins: Sequence[str] = ()
    """Plugin files and modules of this run."""
    fresh: bool = False
    """Whether nothing that was found out before may answer."""
    shared: Shared = field(default_factory=Shared)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended, without what the run knows anyway (variant, machine, checkpoint)."""

    status: Status = Status.PASSED
    reasons: list[str] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    """Facts about this cell alone: real token counts, hash of the text, what the answer was held against."""
    documents: list[dict[str, Any]] | None = None
    """Per-document results, for the samples file."""


class Measurement(ABC):
    """One cell under measurement: `warm_up` (as often as the suite says), `block`s, then `finish` once."""

    timed: ClassVar[bool]
    """False for kinds that have no clock: they do all their work in `finish` and get no warm-up and no turns."""
    model: ClassVar[bool] = True
    """False for kinds that need no weights: a table of only such kinds gets workers without a model."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that take long to import: that is part of loading a worker, not of a cell."""

    def __init__(self, workload: Workload, bench: Bench, cell: CellId) -> None:
        self.workload = workload
        self.bench = bench
        self.cell = cell

    def warm_up(self) -> None:
        """One untimed repetition of exactly what `block` times."""
        raise NotImplementedError(f"{type(self).__name__} is not timed")

    def block(self, inputs: int | None = None) -> dict[str, list[float]]:
        """One timed repetition: metric -> samples, which stay in the measurement as well, until `finish`.

        Equal numbers as `inputs` draw equal inputs in every worker; None draws new ones, and negative numbers are for
        the closing turn, whose answers may be judged. Metrics that may not be given are left out.
        """
        raise NotImplementedError(f"{type(self).__name__} is not timed")

    @abstractmethod
    def finish(self) -> Outcome:
        """Check the answer on inputs that no other call has seen, and return what was measured.

        An answer that is wrong ends as `incorrect` with its metrics withheld. Exceptions of the runner pass through.
        """


def open_measurement(workload: Workload, bench: Bench, cell: CellId) -> Measurement:
    """The measurement of one concrete workload (one length, one batch size, one task).

    Sets up what the cell needs (state, prompts), untimed. Raises UsageError when the checkpoint cannot serve
    the workload, such as text prompts without a tokenizer or a length beyond the model's maximum.
    """
    return measurement_class(cell.workload["kind"])(workload, bench, cell)


def import_needs(kind: str) -> None:
    """Import everything that takes long before the first cell of a kind."""
    for module in measurement_class(kind).needs:
        importlib.import_module(module)


def measurement_class(kind: str) -> type[Measurement]:
    """The class that measures a kind of workload; raises UsageError for an unknown kind."""
    if kind not in KINDS:
        raise unknown("workload kind", kind, KINDS)
    module, _, name = KINDS[kind].partition(":")
    found: type[Measurement] = getattr(importlib.import_module(module), name)
    return found


def outputs_path(folder: Path, cell_id: str) -> Path:
    """Where a cell keeps the outputs that other cells are held against."""
    return folder / f"{hashlib.sha256(cell_id.encode()).hexdigest()[:16]}.safetensors"
