"""Small accepted losses add up: a gate that compares with the last baseline never sees ten times one percent.

Walks the values that were accepted, cell by cell and metric by metric. A step that by itself reached what its rule has
to catch was looked at when it was accepted, and its reason is on record; the others are summed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.gate.baselines.baseline import Acceptance, Baseline
from harness.gate.output.labels import CellNames
from harness.gate.rules import Rules, margins
from harness.records.record import Record
from harness.suite.schema import Difference, Points, Relative


@dataclass(frozen=True)
class Creep:
    """One metric of one cell that has got worse bit by bit."""

    cell: str
    metric: str
    loss: float
    """The sum of all small steps, gains taken off: relative for ratios, else in the metric's unit."""
    limit: float
    steps: int
    since: Acceptance
    relative: bool
    unit: str

    def text(self, names: CellNames) -> str:
        """One line for a person."""
        amount = f"{100 * self.loss:.1f}%" if self.relative else f"{self._shown(self.loss)}"
        limit = f"{100 * self.limit:.3g}%" if self.relative else f"{self._shown(self.limit)}"
        commit = self.since.commit[:12] if self.since.commit else self.since.run
        return (
            f"creep: {names.short(self.cell)} {self.metric} has lost {amount} in {self.steps} accepted steps since "
            f"{self.since.day} ({commit}), and {limit} has to be caught at once"
        )

    def _shown(self, value: float) -> str:
        return f"{100 * value:.3g} points" if self.unit == "fraction" else f"{value:.3g} {self.unit}".rstrip()


def creep(baseline: Baseline, rules: Rules) -> list[Creep]:
    """Everything that has crept beyond what its rule catches in one step; the worst first."""
    records = {record.cell: record for record in baseline.folder.records()}
    found = [
        crept
        for (cell, metric), values in series(baseline.acceptances).items()
        if cell in records
        for rule in rules.of(records[cell], metric)
        if isinstance(rule, Relative | Points | Difference)
        if (crept := _crept(records[cell], metric, values, rule)) is not None
    ]
    return sorted(found, key=lambda one: -one.loss / one.limit)


def series(acceptances: Sequence[Acceptance]) -> dict[tuple[str, str], list[tuple[Acceptance, float]]]:
    """(cell, metric) -> its accepted values, oldest first, since they can be compared with each other."""
    found: dict[tuple[str, str], list[tuple[Acceptance, float]]] = {}
    for acceptance in acceptances:
        for cell, values in acceptance.values.items():
            for metric, value in values.items():
                key = (cell, metric)
                if cell in acceptance.fresh:
                    found[key] = []
                found.setdefault(key, []).append((acceptance, value))
    return found


def lines(baseline: Baseline, rules: Rules) -> list[str]:
    """The report, a line each. Accepted times also drift with the machine, which measuring both sides now tells."""
    found = creep(baseline, rules)
    names = CellNames(record.cell for record in baseline.folder.records())
    advice = [f"`harness gate SUITE --against {one.since.commit}` measures it now" for one in found if one.since.commit]
    return [one.text(names) for one in found] + advice[:1]


def _crept(
    record: Record, metric: str, values: Sequence[tuple[Acceptance, float]], rule: Relative | Points | Difference
) -> Creep | None:
    relative = isinstance(rule, Relative)
    _, limit = margins(rule)
    sign = 1.0 if record.metrics[metric].better == "lower" else -1.0
    small = [step for step in _steps([value for _, value in values], sign, relative) if step < limit]
    total = math.expm1(sum(map(math.log1p, small))) if relative else sum(small)
    losing = sum(step > 0 for step in small)
    if total < limit:
        return None
    unit = record.metrics[metric].unit
    return Creep(record.cell, metric, total, limit, losing, values[0][0], relative, unit)


def _steps(values: Sequence[float], sign: float, relative: bool) -> list[float]:
    """The loss of every step, positive when worse."""
    pairs = list(itertools.pairwise(values))
    if not relative:
        return [sign * (new - base) for base, new in pairs]
    return [(new / base) ** sign - 1 for base, new in pairs if base > 0 and new > 0]
