"""The result document of `--json`: everything a program wants to know about a run, values included."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.records.record import SCHEMA, Metric, Record, Status


class ResultMetric(msgspec.Struct, frozen=True, omit_defaults=True):
    """A metric with its value derived from the samples, or the reason why it may not be given."""

    value: float | None = None
    unit: str | None = None
    samples: list[float] | None = None
    statistic: str | None = None
    """How `value` follows from the samples."""
    better: str | None = None
    withheld: str | None = None


class ResultRecord(msgspec.Struct, frozen=True):
    """One cell's outcome."""

    cell: str
    table: str
    variant: dict[str, str]
    workload: dict[str, Any]
    status: Status
    reasons: list[str]
    metrics: dict[str, ResultMetric]
    checkpoint: dict[str, Any]
    resolved: dict[str, str]
    context: dict[str, Any]


class ResultDocument(msgspec.Struct, frozen=True):
    """The whole document."""

    schema: int
    context: dict[str, Any]
    suite: dict[str, Any]
    records: list[ResultRecord]


def result_document(suite: dict[str, Any], context: dict[str, Any], records: list[Record]) -> ResultDocument:
    """The document of one run."""
    return ResultDocument(SCHEMA, context, suite, [_result(record) for record in records])


def _result(record: Record) -> ResultRecord:
    return ResultRecord(
        cell=record.cell,
        table=record.table,
        variant=dict(record.variant.items()),
        workload=record.workload,
        status=record.status,
        reasons=record.reasons,
        metrics={name: _metric(metric) for name, metric in record.metrics.items()},
        checkpoint=record.checkpoint,
        resolved=record.resolved,
        context=record.context,
    )


def _metric(metric: Metric) -> ResultMetric:
    if metric.withheld is not None:
        return ResultMetric(withheld=metric.withheld)
    return ResultMetric(metric.value, metric.unit, metric.samples, metric.statistic, metric.better)
