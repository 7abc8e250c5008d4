"""`harness plan SUITE --detect 5%`: what each cell needs before such an effect can be seen."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.cli.planning import Planning
    from harness.gate.statistics.planner import TimeNeed
    from harness.records.record import Metric, Record
    from harness.run.former import Stored
    from harness.run.plan import PlannedCell, PlannedTable

HEADERS = ("metric", "noise", "unchanged", "changed", "restarts", "note")
NO_RUN = "no stored run to take the noise from"
TIMES = {"prefill": "ttft", "decode": "tpot", "generate": "tpot"}
"""Kind of a timed cell -> the time that is planned for."""

OTHER_ALPHA, OTHER_MISS = 0.05, 0.05
"""Levels over documents in a suite without a gate: a false alarm in any task, a loss that is passed."""


@dataclass(frozen=True)
class Effect:
    """What is to be seen: a relative change of times and scores, and points of shares such as accuracy."""

    relative: float = 0.05
    points: float = 0.05


@dataclass(frozen=True)
class Answer:
    """One row: a cell, one of its metrics, and what it needs."""

    table: PlannedTable
    planned: PlannedCell
    texts: tuple[str, ...]
    """As `HEADERS`."""
    need: TimeNeed | None = None


def effect_from(texts: list[str]) -> Effect:
    """From `--detect 5%` and `--detect 0.5pt`; a percentage alone stands for as many points. Raises UsageError."""
    effect, points = Effect(), None
    for text in texts:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(%|pt)", text)
        if not found or float(found[1]) == 0:
            raise UsageError(
                "allowed: a percentage such as 5%, or points of accuracy such as 0.5pt", f"--detect {text}"
            )
        share = float(found[1]) / 100
        if found[2] == "pt":
            points = share
        else:
            effect = Effect(share, share)
    return effect if points is None else replace(effect, points=points)


def answers(planning: Planning, effect: Effect) -> Iterator[Answer]:
    """One row a time or score of every cell that runs."""
    asker = _Asker(planning, effect)
    for table in planning.plan.tables:
        for planned in table.cells:
            if planned.runs:
                yield from asker.of(table, planned)


def foot(found: list[Answer], effect: Effect) -> str:
    """What the whole gate takes, and how to read the columns."""
    from harness.run.progress import duration

    needs = [(answer.table, answer.planned, answer.need) for answer in found if answer.need]
    seconds = sum(need.unchanged_seconds for _, _, need in needs)
    visits: dict[tuple[str, str], int] = {}
    for table, planned, need in needs:
        key = (table.name, planned.cell.variant.id)
        visits[key] = max(visits.get(key, 0), need.processes or 0)
    loading = {
        (table.name, variant.id): value for table, _, _ in needs for variant, value in table.load_seconds.items()
    }
    starts = sum(2 * count * loading[key] for key, count in visits.items())
    lines = [
        f"to see {100 * effect.relative:g}% of a time or score, {100 * effect.points:g} points of a share; "
        "unchanged: until it passes, on average; changed: within this in 95% of cases",
    ]
    if needs:
        lines.append(
            f"unchanged, all timed cells: {duration(seconds)} of measuring, {duration(starts)} of worker starts"
        )
    return "\n".join(lines)


class _Asker:
    """Asks the planner about one cell after the other."""

    def __init__(self, planning: Planning, effect: Effect) -> None:
        self.planning = planning
        self.effect = effect
        kinds = [planned.workload.fields["kind"] for planned in planning.plan.cells if planned.runs]
        self.timed = sum(kind in TIMES for kind in kinds)
        self.scored = kinds.count("accuracy")
        self.gate = planning.plan.suite.suite.gate

    def of(self, table: PlannedTable, planned: PlannedCell) -> Iterator[Answer]:
        kind = planned.workload.fields["kind"]
        stored = self._stored(planned)
        if kind in TIMES:
            yield self._time(table, planned, TIMES[kind], stored)
        elif kind == "accuracy" and stored is None:
            yield Answer(table, planned, ("score", "", "", "", "", NO_RUN))
        elif kind == "accuracy" and stored is not None:
            yield from self._scores(table, planned, stored)

    def _stored(self, planned: PlannedCell) -> Stored | None:
        return next(iter(self.planning.former.of(planned.cell.id)), None)

    def _beside(self, table: PlannedTable, planned: PlannedCell, stored: Stored) -> Record | None:
        """The record of the baseline (for the baseline: of any other variant) in the same run."""
        others = [one for one in table.of(planned.workload) if one is not planned]
        others.sort(key=lambda one: one.cell.variant != table.table.baseline)
        records = {record.cell: record for record in stored.folder.records()}
        return next((records[one.cell.id] for one in others if one.cell.id in records), None)

    def _time(self, table: PlannedTable, planned: PlannedCell, metric: str, stored: Stored | None) -> Answer:
        from harness.gate.statistics.planner import Noise, design_for, smallest_effect, time_need

        beside = self._beside(table, planned, stored) if stored else None
        noise = Noise.of(stored.record, metric, beside) if stored else None
        if noise is None:
            return Answer(table, planned, (metric, "", "", "", "", NO_RUN))
        alpha = self.gate.alpha if self.gate else 0.01
        need = time_need(noise, design_for(self.effect.relative, self.timed, alpha))
        note = ""
        if need.changed_pairs is None:
            smallest = smallest_effect(noise, self.timed, alpha)
            note = f"too noisy; smallest effect seen: {100 * smallest:.2g}%" if smallest else "too noisy to see 50%"
        texts = (metric, f"{100 * noise.pair:.1f}% a pair", *_times(need), str(need.processes or "too many"), note)
        return Answer(table, planned, texts, need)

    def _scores(self, table: PlannedTable, planned: PlannedCell, stored: Stored) -> Iterator[Answer]:
        """Every score that documents have of their own, beside the baseline's in the same run."""
        beside = self._beside(table, planned, stored)
        for name, metric in stored.record.metrics.items():
            if metric.better != "neither" and len(metric.samples) > 1:
                yield Answer(table, planned, self._score(name, metric, stored, beside))

    def _score(self, name: str, metric: Metric, stored: Stored, beside: Record | None) -> tuple[str, ...]:
        from harness.gate.statistics.planner import documents_for

        if beside is None:
            return name, "", "", "", "", "no second variant in the stored run to pair it with"
        margin = self.effect.points if metric.unit == "fraction" else self.effect.relative * abs(metric.value or 0.0)
        alpha = (self.gate.accuracy_alpha if self.gate else OTHER_ALPHA) / max(1, self.scored)
        sides = stored.folder.samples(beside), stored.folder.samples(stored.record)
        try:
            needed = documents_for(*sides, name, metric.better, margin, alpha, OTHER_MISS)
        except UsageError as error:
            return name, "", "", "", "", error.message
        note = f"the stored run had {len(metric.samples):,}"
        return name, f"beside {beside.variant.id}", f"{needed:,} documents", f"{needed:,} documents", "", note


def _times(need: TimeNeed) -> tuple[str, str]:
    unchanged = f"{need.unchanged_pairs:.0f} pairs, {need.unchanged_seconds:.1f} s"
    if need.changed_seconds is None:
        return unchanged, "more than the cap"
    return unchanged, f"{need.changed_pairs} pairs, {need.changed_seconds:.1f} s"


def add_detect_flag(parser: argparse.ArgumentParser) -> None:
    """What one wants to see."""
    parser.add_argument(
        "--detect",
        metavar="EFFECT",
        action="append",
        default=[],
        help="say instead how many pairs, seconds and documents each cell needs to see such an effect: 5%% of a time "
        "or score, 0.5pt of accuracy (repeatable); the noise comes from stored runs of the suite",
    )
