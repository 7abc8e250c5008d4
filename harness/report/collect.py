"""Stored runs brought together: one table per suite table, the newest record of every cell in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.records.joined import Joined, Losses, NotTheSameError
from harness.records.paired import PairedDifference, paired_difference
from harness.records.record import Metric, Record, Status
from harness.records.store import RunFolder, RunHeader
from harness.suite.variant import AXES, Variant


@dataclass(frozen=True)
class Origin:
    """What makes two records of one cell unlike: weights, machine, and the text that prompts are cut from."""

    checkpoint: str
    machine: str
    device: str
    threads: int | None
    text: str
    """Hash of the held-out text; empty for a run that used none."""

    @classmethod
    def of(cls, record: Record, run: dict[str, Any]) -> Origin:
        """The origin that a record's context tells, or its run's where the cell did not get as far as telling."""
        context = {**run, **record.context}
        machine = context.get("machine", {})
        name = f"{machine.get('gpu_name') or machine.get('cpu_model', 'unknown machine')}"
        device = context.get("device") or machine.get("device", "cpu")
        text = context.get("text_sha256", "")
        return cls(record.checkpoint.get("sha256", ""), name, device, context.get("threads"), text)


@dataclass(frozen=True)
class Entry:
    """A record, with the run that it comes from."""

    record: Record
    folder: RunFolder
    origin: Origin

    @property
    def run(self) -> str:
        """Name of the run's folder."""
        return self.folder.path.name

    @property
    def header(self) -> RunHeader:
        """What the run was asked to do."""
        return self.folder.header

    @property
    def question(self) -> tuple[str, Origin]:
        """What all variants of one workload share: the cell's id without its variant, and where it ran."""
        return self.record.cell.rpartition(":")[0], self.origin

    @property
    def kind(self) -> str:
        """The workload's kind."""
        return str(self.record.workload["kind"])

    def metric(self, name: str) -> Metric | None:
        """One metric, if the record has it."""
        return self.record.metrics.get(name)

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """Per-document results, read once; none for kinds that have none. Raises UsageError when they are damaged."""
        return self.folder.samples(self.record)

    def value(self, name: str) -> float | None:
        """One metric's value; None unless the cell passed and the metric may be given."""
        metric = self.metric(name)
        return metric.value if metric is not None and self.record.status == Status.PASSED else None


@dataclass
class TableData:
    """Everything that one table of the report is made of."""

    suite: str
    name: str
    suite_question: str
    question: str
    baseline: Variant
    variants: list[Variant]
    expected: int = 0
    """How many cells the newest run's suite has in this table."""
    entries: list[Entry] = field(default_factory=list)

    @property
    def origins(self) -> list[Origin]:
        """Unlike checkpoints and machines, in the order in which they came."""
        return list(dict.fromkeys(entry.origin for entry in self.entries))

    @cached_property
    def axes(self) -> list[str]:
        """Axes that tell the variants apart; one that follows from another (kernels from engine) is left out."""
        kept: list[str] = []
        for axis in AXES:
            names = {getattr(variant, axis) for variant in self.variants}
            if len(names) > 1 and not any(self.follows(axis, other) for other in kept):
                kept.append(axis)
        return kept

    def follows(self, axis: str, other: str) -> bool:
        """Whether the option on `axis` is known once the one on `other` is."""
        pairs = {(getattr(variant, other), getattr(variant, axis)) for variant in self.variants}
        return len(pairs) == len({name for name, _ in pairs})

    @cached_property
    def baselines(self) -> dict[tuple[str, Origin], Entry]:
        """The baseline's record of every workload, weights and machine."""
        return {entry.question: entry for entry in self.entries if entry.record.variant == self.baseline}

    def ratio(self, entry: Entry, name: str) -> float | None:
        """A metric over the baseline's; None when either may not be given."""
        baseline = self.baselines.get(entry.question)
        own, base = entry.value(name), baseline.value(name) if baseline else None
        return None if own is None or not base else own / base

    def paired(self, entry: Entry, name: str) -> PairedDifference | None:
        """A score less the baseline's over the same documents; None where there is nothing to pair."""
        baseline = self.baselines.get(entry.question)
        return None if baseline is None else paired(entry, baseline, name)


def paired(own: Entry, other: Entry, name: str) -> PairedDifference | None:
    """One record's score less another's over the same documents; None where `gains` finds nothing to pair."""
    found = gains(own, other, name)
    return None if found is None else paired_difference(found.values, found.units, found.right_or_wrong)


def gains(own: Entry, other: Entry, name: str) -> Losses | None:
    """What every document's score gains on another record's.

    None for a record and itself, where either may not be given, and where they did not score the same documents.
    """
    if own is other or None in (own.value(name), other.value(name)):
        return None
    try:
        return Joined.of(other.documents, own.documents).losses(name, higher_is_better=False)
    except NotTheSameError:
        return None


def collect(runs: Sequence[RunFolder]) -> list[TableData]:
    """One `TableData` a (suite, table), in the order of the runs; records of later runs replace earlier ones."""
    tables: dict[tuple[str, str], TableData] = {}
    newest: dict[tuple[str, str], dict[tuple[str, Origin], Entry]] = {}
    for run in sorted(runs, key=lambda run: run.header.started):
        for name, header in run.header.tables.items():
            key = (run.header.name, name)
            known = tables.get(key)
            variants = list(dict.fromkeys([*header.variants, *(known.variants if known else [])]))
            question = str(run.header.suite.get("question", ""))
            tables[key] = TableData(*key, question, header.question, header.baseline, variants, header.cells)
        records = run.records()
        shared = {**run.header.context, **_text_of(records)}
        for record in records:
            entry = Entry(record, run, Origin.of(record, shared))
            newest.setdefault((run.header.name, record.table), {})[record.cell, entry.origin] = entry
    for key, table in tables.items():
        table.entries = sorted(newest.get(key, {}).values(), key=lambda entry: _place(entry, table))
    return [table for table in tables.values() if table.entries]


def _text_of(records: Sequence[Record]) -> dict[str, str]:
    """The hash of a run's text: one interpreter, so one text, also for those of its records that used none."""
    found = [record.context["text_sha256"] for record in records if "text_sha256" in record.context]
    return {"text_sha256": found[0]} if found else {}


def _place(entry: Entry, table: TableData) -> tuple[int, int, int]:
    workload, variant = entry.record.workload, entry.record.variant
    position = table.variants.index(variant) if variant in table.variants else len(table.variants)
    return workload.get("length") or 0, workload.get("batch") or 0, position
