"""Which columns a table has: metrics of all workload kinds that met at one length and batch, in blocks.

The first block answers the question (latency with accuracy beside it); the others hold what explains it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.metrics import METRICS
from harness.records.record import Status
from harness.records.statistics import STATISTICS, quantile
from harness.report.collect import Entry, TableData

SUBJECT = ("operator", "target", "weight", "tokens")
"""Workload keys that say what a row is about, besides length and batch."""

COORDINATES = ("kind", *SUBJECT, "length", "batch", "tasks")
"""Workload keys that rows or column headers show anyway."""

BLOCKS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("", (("ttft", "p50"), ("tpot", "p50"), ("output_rate", ""))),
    ("operators", (("latency_cold", ""), ("latency", ""), ("ceiling_share", ""), ("flop_rate", ""), ("byte_rate", ""),
                   ("error", ""), ("error_ratio", ""), ("selection_overlap", ""))),
    ("compiled kernels", (("registers", ""), ("spills", ""), ("shared_memory", ""), ("shared_memory_share", ""),
                          ("operations", ""), ("matrix_instructions", ""), ("native_matrix_instructions", ""))),
    ("equivalence to the baseline", (("logits_rel_l2", ""), ("kl", "mean"), ("kl", "p99"), ("top1_agreement", ""),
                                     ("first_difference", ""))),
    ("memory", (("cache_bytes_per_token", ""), ("cache_bytes", ""), ("weight_bytes", ""), ("peak_memory", ""),
                ("peak_memory_growth", ""))),
    ("tails and rates", (("ttft", "p90 p99"), ("tpot", "p90 p99"), ("prompt_rate", ""),
                         ("output_rate_per_device", ""))),
)  # fmt: skip
"""Title of a block, and its (metric, statistics) columns; an empty statistic is the metric's own."""

MAIN = {"prefill": "ttft", "decode": "tpot", "generate": "output_rate", "equivalence": "logits_rel_l2",
        "op": "latency_cold", "compile": "registers"}  # fmt: skip
"""The metric whose column says how a cell of this kind ended, and is there even when no cell has a number."""

SIZES = ("cache_bytes", "cache_bytes_per_token", "weight_bytes")
"""Exact byte counts: one value in all rows needs no column."""

BARE = ("prompt_rate", "output_rate_per_device", "peak_memory", "ceiling_share", "flop_rate", "byte_rate", "error",
        "error_ratio", "selection_overlap")  # fmt: skip
"""Shown as plain numbers: rates that say what a time says, errors, and a peak that is mostly the runtime's own."""

CACHE_OF = ("decode", "generate", "prefill")
"""The kind whose allocated cache is shown: the first that the table has."""

UNTIMED = ("accuracy", "equivalence")
"""Kinds whose batch size is no part of their question: they stand beside every batch of their length."""


@dataclass(frozen=True)
class MetricColumn:
    """One metric of one kind of workload; `detail` tells apart workloads of a kind that differ in more than shape."""

    kind: str
    detail: tuple[tuple[str, Any], ...]
    task: str
    metric: str
    statistic: str
    """Statistics to show instead of the metric's own, several separated by spaces; no ratio and spread then."""

    @property
    def is_main(self) -> bool:
        """True for the column that says how a cell ended."""
        return not self.derived and (self.kind == "accuracy" or MAIN[self.kind] == self.metric)

    @property
    def is_size(self) -> bool:
        """True for exact byte counts, which have no spread."""
        return self.metric in SIZES

    @property
    def derived(self) -> bool:
        """True for further statistics of samples whose main value stands in another column."""
        return self.statistic not in ("", "p50", "mean")

    @property
    def bare(self) -> bool:
        """True for columns that explain another: no ratio, no spread, no best."""
        return self.derived or self.kind in ("equivalence", "compile") or self.metric in BARE

    def shows(self, entry: Entry) -> bool:
        """Whether a record belongs into this column (whether or not it has the metric)."""
        workload = entry.record.workload
        same_task = entry.kind == self.kind and workload.get("tasks", "") == self.task
        return same_task and all(workload.get(key) == value for key, value in self.detail)

    def header(self, shared_metric: bool) -> str:
        """The header without its unit; names the kind when another column shows the same metric."""
        spec = METRICS.get(self.metric)
        metric = "" if self.metric == self.task else spec.header if spec else self.metric
        name = " ".join(part for part in (self.task, metric, self.statistic) if part)
        detail = [self.kind] if shared_metric and self.kind != "accuracy" else []
        return ", ".join([name, *detail, *(f"{key} {value}" for key, value in self.detail if value is not None)])


@dataclass(frozen=True)
class Block:
    """Columns that stand together."""

    title: str
    columns: list[MetricColumn]


Group = tuple[str, tuple[tuple[str, Any], ...], str]
"""(kind, detail, task): workloads that share their columns."""


def blocks_of(table: TableData) -> list[Block]:
    """All blocks that have a column; accuracy goes into the first, beside latency."""
    groups = _groups(table.entries)
    blocks = []
    for title, wanted in BLOCKS:
        columns = [
            MetricColumn(*group, metric, statistic)
            for metric, statistic in wanted
            for group in groups
            if group[0] != "accuracy" and _wanted(group, metric, statistic, groups)
        ]
        blocks.append(Block(title, columns + (_accuracy_columns(groups) if not title else [])))
    return [block for block in blocks if block.columns]


def _wanted(group: Group, metric: str, statistic: str, groups: dict[Group, list[Entry]]) -> bool:
    """Whether a column says something that no other says already."""
    kind, entries = group[0], groups[group]
    kinds = {other[0] for other in groups}
    if kind == "decode" and metric.startswith("output_rate"):  # of a single sequence it is one over TPOT
        return any(entry.record.workload.get("batch", 1) > 1 for entry in entries)
    if kind == "generate" and metric in ("ttft", "tpot") and kinds & {"prefill", "decode"}:
        return False
    if metric == "cache_bytes" and kind != next((one for one in CACHE_OF if one in kinds), ""):
        return False
    if metric == "output_rate_per_device" and all(
        entry.value(metric) == entry.value("output_rate") for entry in entries
    ):
        return False
    is_main = MAIN[kind] == metric and statistic in ("", "p50")
    return is_main or any(entry.metric(metric) for entry in entries)


def statistics_of(entry: Entry, column: MetricColumn) -> list[float]:
    """The numbers that a column shows of a record, in stored units; empty unless the cell passed and has them."""
    metric = entry.metric(column.metric)
    if metric is None or metric.value is None or entry.record.status != Status.PASSED:
        return []
    if not column.statistic:
        return [metric.value]
    return [_statistic(metric.samples, name) for name in column.statistic.split()]


def _statistic(samples: Sequence[float], name: str) -> float:
    percent = name.removeprefix("p")
    return quantile(samples, int(percent) / 100) if percent.isdigit() else STATISTICS[name](samples)


def _groups(entries: Sequence[Entry]) -> dict[Group, list[Entry]]:
    groups: dict[Group, list[Entry]] = {}
    kinds = dict.fromkeys(entry.kind for entry in entries)
    for kind in kinds:
        own = [entry for entry in entries if entry.kind == kind]
        keys = [key for key in varying_keys(own) if key not in COORDINATES]
        for entry in own:
            workload = entry.record.workload
            detail = tuple((key, workload.get(key)) for key in keys)
            groups.setdefault((kind, detail, str(workload.get("tasks", ""))), []).append(entry)
    return groups


def varying_keys(entries: Iterable[Entry]) -> list[str]:
    """Workload keys that have more than one value among `entries`."""
    workloads = [entry.record.workload for entry in entries]
    keys = dict.fromkeys(key for workload in workloads for key in workload)
    return [key for key in keys if len({str(workload.get(key)) for workload in workloads}) > 1]


def _accuracy_columns(groups: dict[Group, list[Entry]]) -> list[MetricColumn]:
    """Every metric that lm-eval gives for a task; the choices' log-loss last."""
    columns = []
    for group, entries in groups.items():
        if group[0] == "accuracy":
            names = dict.fromkeys(name for entry in entries for name in entry.record.metrics)
            columns += [MetricColumn(*group, name, "") for name in sorted(names, key=lambda name: name == "log_loss")]
            columns += [] if names else [MetricColumn(*group, "", "")]
    return columns
