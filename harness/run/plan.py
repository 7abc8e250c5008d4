"""What a suite would do here: which cells can run, every reason why others cannot, how long and how much memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compile.target import TARGETS
from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.contract.options import Query
from harness.contract.registry import Registry
from harness.contract.slots import CEILINGS, OPERATORS, WEIGHTS
from harness.errors import UsageError, unknown
from harness.model.presets import resolve
from harness.run import estimate
from harness.suite.cell import CellId
from harness.suite.expand import ConcreteWorkload, ExpandedTable, expand
from harness.suite.load import LoadedSuite
from harness.suite.reference import TIMED, reference_of
from harness.suite.schema import Sampling
from harness.suite.variant import Variant, differing_axes

if TYPE_CHECKING:
    from harness.run.former import Stored


@dataclass(frozen=True)
class PlannedCell:
    """One cell and what is known about it before it runs."""

    cell: CellId
    workload: ConcreteWorkload
    reasons: list[str]
    """Every reason why it cannot run here; empty when it can."""
    label: str
    """Workload and variant in a few words: those axes on which the table's variants differ."""
    seconds: float
    stored: bool
    """True when `seconds` is what the same cell took before, False when it is estimated from its operations."""
    former: Stored | None = None
    """The stored record that answers for it, so that it need not be measured again."""
    begun: Stored | None = None
    """A stored record of some of its processes, so that only the others need to be measured."""

    @property
    def runs(self) -> bool:
        """Whether nothing is known against it."""
        return not self.reasons

    @property
    def is_timed(self) -> bool:
        """Whether its kind has a clock, and so rounds and processes."""
        return self.cell.workload["kind"] in TIMED

    @property
    def measured(self) -> bool:
        """Whether it can run and no stored record answers for it."""
        return self.runs and self.former is None


@dataclass(frozen=True)
class PlannedTable:
    """One table with its model and its cells, workload by workload."""

    table: ExpandedTable
    config: ModelConfig
    cells: list[PlannedCell]
    memory: dict[Variant, estimate.Memory]
    """Each variant's worker in its largest workload."""
    load_seconds: dict[Variant, float]
    """Estimated time until each variant's worker is ready."""
    environments: dict[Variant, dict[str, str]] = field(default_factory=dict)
    """Variables that each variant's worker is started with (see `Option.environment`)."""

    @property
    def name(self) -> str:
        """The table's name in the suite."""
        return self.table.name

    @property
    def sampling(self) -> Sampling:
        """How often its timed cells are repeated."""
        return self.table.sampling

    @property
    def measured(self) -> list[PlannedCell]:
        """The cells that are measured."""
        return [planned for planned in self.cells if planned.measured]

    @property
    def answering(self) -> list[PlannedCell]:
        """Cells whose stored record is good and whose answer is needed all the same: others are held against it."""
        references = [self.reference(planned.cell) for planned in self.measured]
        return [one for one in self.cells if one.cell in references and one.runs and not one.measured]

    @property
    def working(self) -> list[PlannedCell]:
        """The cells that a worker is asked for, in the table's order."""
        answering = self.answering
        return [planned for planned in self.cells if planned.measured or planned in answering]

    def reference(self, cell: CellId, failed: Collection[str] = ()) -> CellId | None:
        """The cell that `cell` is held against, among those that run and whose id is not in `failed`."""
        candidates = [one.cell for one in self.cells if one.runs and one.cell.id not in failed]
        return reference_of(cell, candidates, self.table.baseline)

    @property
    def needs_model(self) -> bool:
        """Whether its workers hold weights."""
        return _needs_model(self.table)

    @property
    def compiles(self) -> bool:
        """Whether its workers compile kernels, and so must not interpret them."""
        return _kinds(self.table) == {"compile"}

    @property
    def variants(self) -> list[Variant]:
        """Variants that a worker is asked for."""
        running = {planned.cell.variant for planned in self.working}
        return [variant for variant in self.table.variants if variant in running]

    def of(self, workload: ConcreteWorkload) -> list[PlannedCell]:
        """The cells of one workload, in the order of the variants."""
        return [planned for planned in self.cells if planned.workload is workload]

    @property
    def starts(self) -> dict[Variant, int]:
        """How often each variant's worker is started: those of timed cells are restarted."""
        timed = {planned.cell.variant for planned in self.measured if planned.is_timed}
        return {variant: self.sampling.processes if variant in timed else 1 for variant in self.variants}

    @property
    def bytes_together(self) -> int:
        """Memory of all workers alive at once: all rest but one, which is at its peak."""
        workers = [self.memory[variant] for variant in self.variants]
        at_work = max((worker.peak - worker.resting for worker in workers), default=0)
        return sum(worker.resting for worker in workers) + at_work

    def fits_together(self, available_bytes: int) -> bool:
        """Whether all workers can be alive at once, with a tenth to spare."""
        return self.bytes_together <= 0.9 * available_bytes


@dataclass(frozen=True)
class Plan:
    """A whole suite, planned for one machine."""

    suite: LoadedSuite
    facts: MachineFacts
    threads: int
    seed: int
    plugins: list[str]
    """Plugin files and modules that workers load as well."""
    tables: list[PlannedTable]
    fresh: bool = False
    """Whether nothing that was found out before may answer."""

    @property
    def cells(self) -> list[PlannedCell]:
        """All cells of all tables."""
        return [planned for table in self.tables for planned in table.cells]

    @property
    def seconds(self) -> float:
        """Estimated time of the whole run."""
        loading = sum(
            count * table.load_seconds[variant] for table in self.tables for variant, count in table.starts.items()
        )
        return loading + sum(planned.seconds for planned in self.cells if planned.measured)


def make_plan(
    suite: LoadedSuite,
    registry: Registry,
    facts: MachineFacts,
    plugins: Sequence[str] = (),
    only: Sequence[str] = (),
    former_seconds: Mapping[tuple[str, str], float] | None = None,
) -> Plan:
    """Plan a suite. `former_seconds`: see `harness.run.former.FormerRuns.seconds`.

    Raises UsageError for unknown names, a checkpoint or a device that is not there, or a context beyond the model's
    maximum. Where --checkpoint puts another model into a suite, cells beyond its maximum are unsupported instead,
    as long as some are within it.
    """
    if facts.device == "cuda" and facts.gpu_name is None:
        raise UsageError("device cuda: nvidia-smi shows no GPU here; allowed: cpu", suite.where("device"))
    threads = suite.suite.threads or facts.cpu_count
    planner = _Planner(registry, facts, estimate.rates_of(facts, threads), former_seconds or {})
    tables = [(table, resolve(table.checkpoint, table.place)) for table in expand(suite, registry, only)]
    for table, _ in tables:
        _refuse_unknown(table)
    _refuse_too_long(tables)
    return Plan(suite, facts, threads, suite.suite.seed, list(plugins), [planner.plan(*table) for table in tables])


@dataclass(frozen=True)
class _Planner:
    """Plans one table after the other by the same facts."""

    registry: Registry
    facts: MachineFacts
    rates: estimate.Rates
    former_seconds: Mapping[tuple[str, str], float]

    def plan(self, table: ExpandedTable, config: ModelConfig) -> PlannedTable:
        """One table."""
        axes = differing_axes(table.variants)
        names = {one: " ".join(getattr(one, axis) for axis in axes) or one.engine for one in table.variants}
        cells = [
            self._cell(table, config, workload, variant, f"{workload.label}, {names[variant]}")
            for workload in table.workloads
            for variant in table.variants
        ]
        memory = {variant: _largest(table, variant, config) for variant in table.variants}
        loading = {one: estimate.load_seconds(one, config, _needs_model(table)) for one in table.variants}
        return PlannedTable(table, config, cells, memory, loading, self._environments(table))

    def _environments(self, table: ExpandedTable) -> dict[Variant, dict[str, str]]:
        """None for workers that compile: what is interpreted cannot be compiled."""
        if _kinds(table) == {"compile"}:
            return {}
        return {variant: self.registry.environment(variant, self.facts) for variant in table.variants}

    def _cell(
        self, table: ExpandedTable, config: ModelConfig, workload: ConcreteWorkload, variant: Variant, label: str
    ) -> PlannedCell:
        cell = table.cell(workload, variant)
        reasons = [
            *self.registry.unsupported(Query(variant, config, self.facts)),
            *self._never_timed(workload, variant),
            *_without_tokenizer(workload, table.checkpoint),
            *_too_long(workload, config, table.checkpoint),
        ]
        stored = self.former_seconds.get((Path(table.checkpoint).name, cell.id))
        seconds = stored or estimate.seconds_of(workload.workload, variant, config, table.sampling, self.rates)
        return PlannedCell(cell, workload, reasons, label, seconds, stored is not None)

    def _never_timed(self, workload: ConcreteWorkload, variant: Variant) -> list[str]:
        """Oracles answer what is right, never how fast."""
        if workload.fields["kind"] not in TIMED:
            return []
        oracles = [(axis, name) for axis, name in variant.items() if self.registry.option(axis, name).reference_only]
        return [f"{axis} {name} is a reference and is never timed" for axis, name in oracles]


def _without_tokenizer(workload: ConcreteWorkload, checkpoint: str) -> list[str]:
    """Text needs a tokenizer; presets have none."""
    if any((Path(checkpoint) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return []
    name = Path(checkpoint).name
    if workload.fields["kind"] == "accuracy":
        return [f"accuracy needs a tokenizer, and {name!r} has none"]
    if workload.fields.get("context") == "text":
        return [f"context text needs a tokenizer, and {name!r} has none; allowed: context random"]
    return []


def _too_long(workload: ConcreteWorkload, config: ModelConfig, checkpoint: str) -> list[str]:
    needed, allowed = estimate.work_of(workload.workload).context, config.max_position_embeddings
    if needed <= allowed:
        return []
    what = f"{workload.fields['kind']} of length {workload.fields.get('length')} needs {needed} positions"
    return [f"{what}; allowed: at most {allowed}, the max_position_embeddings of {Path(checkpoint).name!r}"]


def _needs_model(table: ExpandedTable) -> bool:
    return any(estimate.needs_model(workload.workload) for workload in table.workloads)


def _kinds(table: ExpandedTable) -> set[str]:
    return {workload.fields["kind"] for workload in table.workloads}


KNOWN = {
    ("op", "operator"): (*OPERATORS, *CEILINGS),
    ("op", "weight"): WEIGHTS,
    ("compile", "operator"): OPERATORS,
    ("compile", "target"): tuple(TARGETS),
}
"""(Kind, key) of a workload -> the names that there are."""


def _refuse_unknown(table: ExpandedTable) -> None:
    """Names of operators, targets and weights that nobody has, and tables that both compile and measure."""
    for workload in table.workloads:
        for key, given in workload.fields.items():
            known = KNOWN.get((workload.fields["kind"], key), (given,))
            if given not in known:
                raise unknown(key, given, known, workload.place)
    if "compile" in (kinds := _kinds(table)) and len(kinds) > 1:
        others = ", ".join(sorted(kinds - {"compile"}))
        raise UsageError(f"tables.{table.name}: a table either compiles or measures; this one has {others} as well",
                         table.workloads[0].place)  # fmt: skip


def _refuse_too_long(tables: Sequence[tuple[ExpandedTable, ModelConfig]]) -> None:
    """A suite that asks its own checkpoint for too much is wrong; one that is lent another model need not be."""
    asked = [
        (table, workload, _too_long(workload, config, table.checkpoint))
        for table, config in tables
        for workload in table.workloads
    ]
    some_fit = any(not reasons for _, _, reasons in asked)
    for table, workload, reasons in asked:
        lent = table.place.startswith("--checkpoint") and not workload.place.startswith("--")
        if reasons and not (lent and some_fit):
            raise UsageError(f"tables.{table.name}.workloads: {reasons[0]}", workload.place)


def _largest(table: ExpandedTable, variant: Variant, config: ModelConfig) -> estimate.Memory:
    each = [estimate.memory_of(workload.workload, variant, config) for workload in table.workloads]
    return max(each, key=lambda memory: memory.peak)
