"""A record's samples by the block that they were taken in: block by block, process by process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from harness.records.record import Block, Record

Samples = dict[str, list[float]]


def samples_by_block(record: Record) -> list[tuple[Block, Samples]]:
    """Every block with its samples by metric. Those of dropped blocks are their own, all others the metrics'."""
    taken = {name: iter(metric.samples) for name, metric in record.metrics.items() if metric.withheld is None}
    return [
        (block, dict(block.samples) if block.dropped else _next(block, taken))  # in the order of the blocks
        for block in record.blocks
    ]


def samples_by_process(record: Record, metric: str) -> list[list[float]]:
    """A metric's samples, one list a worker process; a single list for a metric that is not measured in blocks."""
    found: dict[int, list[float]] = {}
    for block, samples in samples_by_block(record):
        if not block.dropped and metric in samples:
            found.setdefault(block.process, []).extend(samples[metric])
    return list(found.values()) or [list(record.metrics[metric].samples)]


def _next(block: Block, taken: dict[str, Iterator[float]]) -> Samples:
    """The next samples of every metric that the block has measured and the record gives."""
    return {name: list(islice(taken[name], count)) for name, count in block.counts.items() if name in taken}
