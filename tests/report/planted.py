"""Stored runs with planted numbers, written through the real run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.records.metrics import METRICS, metric
from harness.records.record import Metric, Record, Status
from harness.records.store import RunFolder, TableHeader
from harness.suite.cell import CellId
from harness.suite.variant import Variant

MHA = Variant("native", "mha", "dense", "fp32", "latent", "eager", "plain")
MQA = MHA.with_options({"form": "mqa"})
DSA = MQA.with_options({"selector": "dsa"})
HF = Variant("hf", "mha", "dense", "fp32", "latent", "sdpa", "plain")

CHECKPOINT = {"name": "first", "model_type": "deepseek_v32", "source": "directory", "sha256": "ab" * 32}
BEYOND = {"trained_lengths": [512, 1024], "extrapolates": True}
CONTEXT = {
    "machine": {"cpu_model": "Planted CPU", "cpu_count": 2, "memory_bytes": 24 * 2**30, "device": "cpu"},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "threads": 1,
}


def record(
    kind: str,
    variant: Variant,
    metrics: Mapping[str, Sequence[float] | Metric] | None = None,
    *,
    status: Status = Status.PASSED,
    reasons: Sequence[str] = (),
    checkpoint: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    **workload: Any,
) -> Record:
    """A record of table `t`; plain lists become metrics of the metrics table."""
    shape = {"kind": kind, **({} if kind in ("accuracy",) else {"batch": 1}), **workload}
    given = {
        name: values if isinstance(values, Metric) else metric(name, values) for name, values in (metrics or {}).items()
    }
    cell = CellId("t", shape, variant)
    return Record(
        cell=cell.id,
        table="t",
        variant=variant,
        workload=shape,
        status=status,
        reasons=list(reasons),
        metrics=given,
        checkpoint=checkpoint or CHECKPOINT,
        context={**CONTEXT, "device": "cpu", **(context or {})},
    )


def accuracy(name: str, samples: Sequence[float], unit: str = "", better: str = "higher") -> dict[str, Metric]:
    """An lm-eval metric."""
    known = METRICS.get(name)
    return {name: Metric(known.unit if known else unit, list(samples), "mean", better)}


def run(
    folder: Path,
    records: Sequence[Record],
    variants: Sequence[Variant] = (MHA, MQA, DSA),
    *,
    name: str = "planted",
    started: str = "2026-11-21T10:00:00+00:00",
    cells: int | None = None,
) -> RunFolder:
    """A finished run on disk, opened again from there. The baseline is the first of `variants`."""
    table = TableHeader("Which is fastest?", variants[0], list(variants), len(records) if cells is None else cells)
    store = RunFolder.create(folder, name, {"question": "Does it work?"}, CONTEXT, {"t": table})
    header = msgspec.structs.replace(store.header, started=started)
    (store.path / "run.json").write_bytes(msgspec.json.encode(header))
    for one in records:
        store.append(_with_documents(store, one))
    store.close()
    return RunFolder.open(store.path.rename(folder / f"{name}-{started[:10]}"))


def _with_documents(store: RunFolder, record: Record) -> Record:
    """The record with per-document results that its own samples follow from; documents 0 and 1 share a text."""
    if record.workload["kind"] != "accuracy" or record.status != Status.PASSED:
        return record
    count = max(len(metric.samples) for metric in record.metrics.values())
    task = f"{record.workload['tasks']}_{record.workload.get('length')}"
    documents: list[dict[str, Any]] = [
        {"task": task, "doc_id": number, "filter": "none", "doc_hash": f"{task} {number}", "cluster": max(number, 1)}
        | {"scores": {name: metric.samples[number] for name, metric in record.metrics.items()}}
        for number in range(count)
    ]
    file = store.write_samples(CellId("t", record.workload, record.variant), documents)
    context = {**record.context, "task": task, "documents": count, "clusters": count - 1}
    return msgspec.structs.replace(record, samples_file=file, context=context)


def example() -> list[Record]:
    """Two lengths, three variants, every kind of outcome. Ratios are 1/2 and 3/2, spreads 5% and 0%."""
    return [
        record("prefill", MHA, {"ttft": [90, 100, 110], "peak_memory": [2**20], "rel_l2_vs_reference": []}, length=512),
        record("prefill", MQA, {"ttft": [150, 150, 150], "peak_memory": [2**21], "rel_l2_vs_reference": [2e-7, 5e-7]},
               context={"held_against": CellId("t", {"kind": "prefill"}, MHA).id}, length=512),
        record("prefill", DSA, status=Status.UNSUPPORTED, reasons=["the model has no indexer"], length=512),
        record("decode", MHA, {"tpot": [8, 8, 8, 8], "cache_bytes_per_token": [320]}, steps=4, length=512),
        record("decode", MQA, {"tpot": [4, 4, 4, 4], "cache_bytes_per_token": [320]}, steps=4, length=512),
        record("decode", DSA, {"tpot": [2, 2, 2, 2], "cache_bytes_per_token": [448]}, steps=4, length=512),
        record("prefill", MHA, {"ttft": [2000]}, length=2048),
        record("prefill", MQA, {"ttft": Metric("ms", withheld="not timed: attention is triton (interpreted)")},
               length=2048),
        record("prefill", DSA, {"ttft": Metric("ms", withheld="the answer is wrong"), "rel_l2_vs_reference": [0.5]},
               status=Status.INCORRECT, reasons=["the answer is off by 0.5"], length=2048),
        record("accuracy", MHA, accuracy("acc", [1, 1, 0, 0]), tasks="choice", length=512),
        record("accuracy", MQA, accuracy("acc", [1, 1, 1, 0]), tasks="choice", length=512),
        record("accuracy", DSA, status=Status.TIMEOUT, reasons=["longer than 300 s"], tasks="choice", length=512),
        record("accuracy", MHA, accuracy("acc", [1, 1, 1, 0]), tasks="choice", length=2048, context=BEYOND),
        record("accuracy", DSA, accuracy("acc", [1, 0, 0, 0]), tasks="choice", length=2048, context=BEYOND),
    ]  # fmt: skip
