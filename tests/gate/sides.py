"""Two stored sides with planted numbers, and a `gate:` section to judge them by."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.gate.compare import compare
from harness.gate.measured import open_run
from harness.gate.rules import Rules
from harness.gate.verdict import Finding, GateReport
from harness.records.record import Metric, Record
from harness.records.store import RunFolder, TableHeader
from harness.suite.cell import CellId
from harness.suite.variant import Variant
from tests.report.planted import CONTEXT, DSA, MHA, MQA, record

__all__ = ["DSA", "MHA", "MQA", "documents", "finding", "judged", "record", "rules", "run", "scored"]

_numbers = itertools.count()


def rules(*given: dict[str, Any], **section: Any) -> Rules:
    """The rules of a section for table `t`."""
    suite = {"tables": {"t": {}}, "gate": {"rules": list(given), **section}}
    return Rules.of_stored(suite, "planted")


def run(
    folder: Path,
    records: Sequence[Record],
    variants: Sequence[Variant] = (MHA, MQA, DSA),
    *,
    cells: int | None = None,
    documents: dict[str, list[dict[str, Any]]] | None = None,
    gate: Rules | None = None,
    **context: Any,
) -> RunFolder:
    """A finished run on disk: `documents` maps a cell to its per-document results, `context` changes the run's."""
    table = TableHeader("Which is fastest?", variants[0], list(variants), len(records) if cells is None else cells)
    suite = {"question": "?", "tables": {"t": {}}, **({"gate": msgspec.to_builtins(gate.gate)} if gate else {})}
    store = RunFolder.create(folder / str(next(_numbers)), "planted", suite, {**CONTEXT, **context}, {"t": table})
    for one in records:
        found = (documents or {}).get(one.cell)
        samples = store.write_samples(CellId("t", one.workload, one.variant), found) if found is not None else None
        store.append(msgspec.structs.replace(one, samples_file=samples))
    store.close()
    return store


def judged(base: RunFolder, new: RunFolder, by: Rules) -> GateReport:
    """The comparison of two runs."""
    return compare(open_run(base), open_run(new), by, "planted", "runs")


def finding(report: GateReport, metric: str, variant: Variant = MHA) -> Finding:
    """The only finding on a metric of a variant's cell."""
    (one,) = (one for one in report.findings if one.metric == metric and one.cell.endswith(variant.id))
    return one


def scored(scores: Sequence[float], variant: Variant = MHA, metric: str = "acc", **more: Any) -> Record:
    """An accuracy record."""
    better = "lower" if metric in ("bits_per_byte", "log_loss") else "higher"
    unit = "fraction" if metric == "acc" else "nats"
    metrics = {metric: Metric(unit, list(scores), "mean", better)}
    return record("accuracy", variant, metrics, tasks="choice", length=512, **more)


def documents(scores: Sequence[float], metric: str = "acc", **facts: Sequence[Any]) -> list[dict[str, Any]]:
    """Per-document results with these scores; `facts` are further keys, a value a document."""
    return [
        {
            "task": "choice_512",
            "doc_id": number,
            "doc_hash": f"hash {number}",
            "filter": "none",
            "tokens": 512,
            "target": 0,
            "scores": {metric: score},
            **{key: values[number] for key, values in facts.items()},
        }
        for number, score in enumerate(scores)
    ]
