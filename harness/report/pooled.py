"""Right or wrong answers of all tasks and lengths taken together: one paired difference a variant.

A cell of some hundred documents leaves a difference of a point open; all of a table's cells together often settle it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from harness.records.joined import Losses
from harness.records.metrics import METRICS
from harness.records.paired import PairedDifference, paired_difference
from harness.report.collect import Entry, TableData, gains
from harness.suite.variant import Variant


@dataclass(frozen=True)
class Pooled:
    """A variant's score less the baseline's over the documents of several cells."""

    variant: Variant
    metric: str
    cells: int
    difference: PairedDifference


def pooled(table: TableData) -> list[Pooled]:
    """Every variant's pooled difference in every metric that says right or wrong in several cells.

    Cells that lack a baseline, or whose documents are others than its, are left out. Unlike weights and machines are
    never pooled: with several of them there is nothing.
    """
    if len(table.origins) != 1:
        return []
    entries = [entry for entry in table.entries if entry.kind == "accuracy"]
    names = dict.fromkeys(name for entry in entries for name in entry.record.metrics)
    variants = [variant for variant in table.variants if variant != table.baseline]
    found = (_pooled(table, entries, variant, name) for name in names for variant in variants)
    return [one for one in found if one is not None]


def _pooled(table: TableData, entries: Sequence[Entry], variant: Variant, metric: str) -> Pooled | None:
    own = [entry for entry in entries if entry.record.variant == variant]
    pairs = ((entry, table.baselines[entry.question]) for entry in own if entry.question in table.baselines)
    cells = [(one, found) for one, base in pairs if (found := gains(one, base, metric)) and found.right_or_wrong]
    if len(cells) < 2:
        return None
    values = [value for _, found in cells for value in found.values]
    units = [unit for entry, found in cells for unit in _units(entry, found)]
    return Pooled(variant, metric, len(cells), paired_difference(values, units, right_or_wrong=True))


def _units(entry: Entry, found: Losses) -> Iterator[Hashable]:
    """Documents of one length that share a text are one unit, whatever their task."""
    for task, text in found.units:
        alone = isinstance(text, tuple)
        yield (task, text) if alone else (entry.record.workload.get("length"), text)


def line(one: Pooled, label: str) -> str:
    """What a reader is told of it; `label` names the variant."""
    header = METRICS[one.metric].header if one.metric in METRICS else one.metric
    difference = one.difference
    estimate, low, high = (100 * value for value in (difference.estimate, difference.low, difference.high))
    return (
        f"{label}: {header} over {one.cells} cells with {difference.documents:,} documents {estimate:+.2f} points from "
        f"the baseline [{low:+.2f}, {high:+.2f}], {difference.lost} lost and {difference.gained} gained"
    )
