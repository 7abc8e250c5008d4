"""One metric column on its way to text: one unit, ratio and spread, the best marked, notes for what has no number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.records.metrics import METRICS
from harness.records.record import Metric, Status
from harness.records.statistics import relative_spread
from harness.report import numbers
from harness.report.collect import Entry, paired
from harness.report.columns import MetricColumn, statistics_of
from harness.report.rows import Rows

NOTHING = "-"
"""Shown where a question was not asked, or a cell has no record."""


@dataclass(frozen=True)
class Shown:
    """One cell: parts that are aligned among each other (value, ratio, spread), or a word in their place."""

    parts: tuple[str, ...]
    best: bool = False


@dataclass(frozen=True)
class TextColumn:
    """A column ready to be laid out: a header, its unit and a cell for every row."""

    header: str
    unit: str
    cells: list[Shown]


@dataclass
class Notes:
    """Numbered notes below a table; equal texts share a number."""

    texts: list[str] = field(default_factory=list)

    def number(self, text: str) -> str:
        """The mark that stands in the cell, such as `[2]`."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


class MetricText:
    """Turns one column of a table into text."""

    def __init__(self, column: MetricColumn, rows: Rows, notes: Notes, shared: bool) -> None:
        """`shared`: another column of the block shows the same metric of another kind, so the header says the kind."""
        self.column = column
        self.rows = rows
        self.notes = notes
        self.shared = shared
        self.entries = rows.entries(column)
        self.values = rows.values(column)
        given = [value for value in self.values if value is not None]
        spec = METRICS.get(column.metric)
        stored = next((metric.unit for metric in self._metrics()), "")
        self.unit, self.size = numbers.unit_for(spec.unit if spec else stored, given)

    @property
    def same_everywhere(self) -> bool:
        """True for an exact size with one value in all of several rows: it needs no column."""
        return self.column.is_size and len(self.values) > 1 and set(self.values) == {self.values[0]} != {None}

    def once(self) -> str:
        """The metric and its only value, for the line above the table."""
        assert self.values[0] is not None
        return f"{self._header()} {numbers.quantity(self.values[0] / self.size, self.unit)} {self.unit}".strip()

    def text(self) -> TextColumn:
        """The column as text."""
        best = self._best()
        shown = [self._shown(entry, index in best) for index, entry in enumerate(self.entries)]
        return TextColumn(self._header(), self.unit, shown)

    def _header(self) -> str:
        header = self.column.header(self.shared)
        if self.column.kind != "accuracy":
            return header
        counts = sorted({len(metric.samples) for metric in self._metrics()})
        return f"{header}, n={'..'.join(map(str, counts))}" if counts and counts != [1] else header

    def _metrics(self) -> list[Metric]:
        metrics = [entry.metric(self.column.metric) for entry in self.entries if entry is not None]
        return [metric for metric in metrics if metric is not None and metric.samples]

    # --- one cell ---------------------------------------------------------------------------------

    def _shown(self, entry: Entry | None, best: bool) -> Shown:
        if entry is None:
            return Shown((NOTHING,))
        status, metric = entry.record.status, entry.metric(self.column.metric)
        if status != Status.PASSED:
            return self._noted(status.value, "; ".join(entry.record.reasons) or "no reason was given")
        if metric is None:
            return Shown((NOTHING,))
        if metric.withheld is not None:
            return self._noted("withheld", metric.withheld)
        return Shown(self._parts(entry, metric), best)

    def _noted(self, word: str, reason: str) -> Shown:
        """The word in the column that says how a cell ended, the number of its note everywhere."""
        mark = self.notes.number(f"{word}: {reason}")
        return Shown((f"{word} {mark}" if self.column.is_main else mark,))

    def _parts(self, entry: Entry, metric: Metric) -> tuple[str, ...]:
        texts = [numbers.quantity(value / self.size, self.unit) for value in statistics_of(entry, self.column)]
        if not texts or self.column.bare:
            return tuple(texts) or (NOTHING,)
        text = texts[0]
        if self.column.kind == "accuracy":
            return text, self._error(metric), *self._change(entry), self._extrapolation(entry)
        if metric.statistic != "median":
            return text, self._ratio(entry)
        return text, self._ratio(entry), numbers.spread(metric.samples)

    def _error(self, metric: Metric) -> str:
        error = numbers.standard_error(metric)
        return "" if error is None else f"±{numbers.number(error / self.size, 2)}"

    def _ratio(self, entry: Entry) -> str:
        ratio = self.rows.table.ratio(entry, self.column.metric)
        return "" if ratio is None else numbers.ratio(ratio)

    def _change(self, entry: Entry) -> tuple[str, str]:
        """From the baseline, with its interval where both scored the same documents."""
        baseline = self.rows.table.baselines.get(entry.question)
        own, base = entry.value(self.column.metric), baseline.value(self.column.metric) if baseline else None
        if own is None or base is None or entry is baseline:
            return "", ""
        difference = paired(entry, baseline, self.column.metric) if baseline else None
        if difference is None:
            return self._difference(own - base), ""
        low, high = self._difference(difference.low), self._difference(difference.high)
        return self._difference(difference.estimate), f"[{low}, {high}]"

    def _difference(self, stored: float) -> str:
        return numbers.change(stored / self.size, self.unit)

    def _extrapolation(self, entry: Entry) -> str:
        """The mark of a cell with more tokens than the model was ever trained at."""
        context = entry.record.context
        if not context.get("extrapolates"):
            return ""
        longest = max(context["trained_lengths"])
        return self.notes.number(f"extrapolation: the model was trained at no more than {longest:,} tokens")

    # --- the best ---------------------------------------------------------------------------------

    def _best(self) -> set[int]:
        """Rows that are best of their group, those within the noise included; none when that is all of them."""
        better = next((metric.better for metric in self._metrics()), "neither")
        if better == "neither" or self.column.bare:
            return set()
        best: set[int] = set()
        for group in self.rows.groups:
            known = {index: value for index in group if (value := self.values[index]) is not None}
            ties = self._ties(known, min if better == "lower" else max)
            best |= ties if len(ties) < len(known) else set()
        return best

    def _ties(self, known: dict[int, float], choose: Callable[[Iterable[float]], float]) -> set[int]:
        if not known:
            return set()
        top = next(index for index, value in known.items() if value == choose(known.values()))
        return {one for one in known if self._tied(one, top, known)}

    def _tied(self, one: int, top: int, known: dict[int, float]) -> bool:
        """Whether a value may equal the best: by its paired interval where there is one, else by its own noise."""
        own, best = self.entries[one], self.entries[top]
        difference = paired(own, best, self.column.metric) if own and best and one != top else None
        if difference is not None:
            return difference.low <= 0 <= difference.high
        return abs(known[one] - known[top]) <= max(self._noise(one), self._noise(top))

    def _noise(self, index: int) -> float:
        """How far a value may be off by its own samples, in stored units."""
        entry = self.entries[index]
        metric = entry.metric(self.column.metric) if entry else None
        if metric is None:
            return 0.0
        if metric.statistic == "median":
            return relative_spread(metric.samples) * abs(self.values[index] or 0.0)
        return numbers.standard_error(metric) or 0.0
