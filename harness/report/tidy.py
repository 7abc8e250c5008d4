"""The same content as tidy CSV: one row a cell and metric, nothing rounded, nothing joined."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from harness.contract.columns import Column
from harness.records.record import Metric
from harness.records.statistics import STATISTICS, quantile, relative_spread
from harness.report.collect import Entry, TableData
from harness.report.grid import plugin_value
from harness.report.numbers import standard_error
from harness.suite.variant import AXES

WORKLOAD_KEYS = (
    "kind",
    "tasks",
    "operator",
    "target",
    "weight",
    "tokens",
    "length",
    "batch",
    "steps",
    "new_tokens",
    "context",
    "chunk",
    "limit",
)

FIELDS = (
    "suite", "table", "run", "checkpoint", "checkpoint_sha256", "machine", "device", "threads", "cell", *AXES,
    *WORKLOAD_KEYS, "status", "reasons", "metric", "unit", "better", "statistic", "value", "ratio_to_baseline",
    "paired_difference", "paired_low", "paired_high", "lost", "gained", "extrapolates",
    "spread", "standard_error", "n", "p50", "p90", "p99", "mean", "min", "max", "withheld", "held_against",
)  # fmt: skip
"""Columns; those of plugins follow. A cell without metrics has one row with its status and reasons."""


def csv_text(tables: Sequence[TableData], columns: Sequence[Column] = ()) -> str:
    """All tables as one CSV text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIELDS, *(column.header for column in columns)], lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for entry in table.entries:
            own = {column.header: plugin_value(column, [entry]) for column in columns}
            writer.writerows({**_cell(table, entry), **row, **own} for row in _metrics(table, entry))
    return text.getvalue().rstrip("\n")


def _cell(table: TableData, entry: Entry) -> dict[str, Any]:
    record, origin = entry.record, entry.origin
    return {
        "suite": table.suite,
        "table": table.name,
        "run": entry.run,
        "checkpoint": record.checkpoint.get("name"),
        "checkpoint_sha256": origin.checkpoint,
        "machine": origin.machine,
        "device": origin.device,
        "threads": origin.threads,
        "cell": record.cell,
        **dict(record.variant.items()),
        **{key: record.workload.get(key) for key in WORKLOAD_KEYS},
        "status": record.status.value,
        "reasons": "; ".join(record.reasons),
        "held_against": record.context.get("held_against"),
        "extrapolates": record.context.get("extrapolates"),
    }


def _metrics(table: TableData, entry: Entry) -> Iterator[dict[str, Any]]:
    for name, metric in entry.record.metrics.items():
        yield {
            "metric": name,
            "unit": metric.unit,
            "better": metric.better,
            "statistic": metric.statistic,
            "withheld": metric.withheld,
            **(_numbers(table, entry, name, metric) if metric.value is not None else {}),
        }
    if not entry.record.metrics:
        yield {}


def _numbers(table: TableData, entry: Entry, name: str, metric: Metric) -> dict[str, float | int | None]:
    samples = metric.samples
    return {
        "value": metric.value,
        "ratio_to_baseline": table.ratio(entry, name),
        **_paired(table, entry, name),
        "spread": relative_spread(samples) if len(samples) > 1 else None,
        "standard_error": standard_error(metric),
        "n": len(samples),
        **{f"p{percent}": quantile(samples, percent / 100) for percent in (50, 90, 99)},
        **{statistic: STATISTICS[statistic](samples) for statistic in ("mean", "min", "max")},
    }


def _paired(table: TableData, entry: Entry, name: str) -> dict[str, float | int]:
    """The difference from the baseline on the same documents, with its 95% interval; empty where there is none."""
    paired = table.paired(entry, name) if entry.kind == "accuracy" else None
    if paired is None:
        return {}
    bounds = {"paired_difference": paired.estimate, "paired_low": paired.low, "paired_high": paired.high}
    return {**bounds, "lost": paired.lost, "gained": paired.gained}
