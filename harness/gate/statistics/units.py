"""The independent units of a stored cell: its worker processes, or the turns of a single one.

Samples of one process share its memory layout, and those of one turn everything that is slow on a machine, so neither
counts by the sample. A unit counts by its mean, which sees a slow-down that hits every other call; a minimum does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.gate.verdict import Evidence
from harness.records.blocks import samples_by_block, samples_by_process
from harness.records.record import Record
from harness.records.statistics import t_quantile

SPOILT = 0.25
"""Share of a record's turns that may have been disturbed before its times are no evidence."""


@dataclass(frozen=True)
class Units:
    """One metric of one record, a logarithm a unit."""

    logs: list[float]
    """Natural logarithms of the units' means, in the order in which they were taken."""
    processes: int
    """Worker processes that they come from."""

    @classmethod
    def of(cls, record: Record, metric: str) -> Units:
        """The units of a metric that is not withheld: processes where there are several, else turns."""
        processes = samples_by_process(record, metric)
        units = processes if len(processes) > 1 else _turns(record, metric)
        means = (statistics.fmean(samples) for samples in units if samples)
        return cls([math.log(mean) for mean in means if mean > 0], len(processes))

    @property
    def mean(self) -> float:
        """Mean logarithm; the cell's summary."""
        return statistics.fmean(self.logs) if self.logs else math.nan

    @property
    def error(self) -> float:
        """Squared standard error of `mean`; infinite for a single unit, which tells nothing about its noise."""
        return statistics.variance(self.logs) / len(self.logs) if len(self.logs) > 1 else math.inf

    def evidence(self, detectable: float | None = None) -> Evidence:
        """What a verdict on these units rests on."""
        if self.processes > 1:
            return Evidence(self.processes, "processes", detectable=detectable)
        return Evidence(len(self.logs), "turns", 1, "processes", detectable)


def disturbance(record: Record) -> str | None:
    """Why a record's times say more about its machine than about the code; None when they do not.

    Turns know how they were disturbed. A record without turns knows the load average alone, which tells that there were
    more runnable processes than processors.
    """
    kept = [block for block in record.blocks if not block.dropped]
    disturbed = [block.conditions.disturbances for block in kept if block.conditions.disturbances]
    if len(disturbed) > SPOILT * len(kept):
        return f"{len(disturbed)} of {len(kept)} turns disturbed, such as by: {'; '.join(disturbed[0])}"
    processors = record.context.get("machine", {}).get("cpu_count")
    load = max(record.context.get(key, [0.0])[0] for key in ("load_before", "load_after"))
    if not kept and processors and load > processors:
        return f"load average {load:g} on {processors} processors"
    return None


def fewest(base: Units, new: Units) -> Units:
    """The side that tells less."""
    return min((base, new), key=lambda units: (units.processes, len(units.logs)))


def reach(units: Units, level: float) -> float:
    """How far, in logarithms, the truth may lie to one side of the value; it lies beyond with chance 1 - `level`."""
    return t_quantile(level, len(units.logs) - 1) * math.sqrt(units.error) if units.error else 0.0


def welch(base: Units, new: Units) -> tuple[float, float]:
    """Standard error of the difference of two means, and its degrees of freedom (Welch 1947, Satterthwaite 1946)."""
    errors = (base.error, new.error)
    total = sum(errors)
    if math.isinf(total) or total == 0:
        return math.sqrt(total), float(min(len(base.logs), len(new.logs)) - 1)
    parts: Sequence[float] = [error**2 / (len(side.logs) - 1) for error, side in zip(errors, (base, new), strict=True)]
    return math.sqrt(total), total**2 / sum(parts)


def _turns(record: Record, metric: str) -> list[list[float]]:
    """A metric's samples turn by turn; one sample a turn for a record that does not tell its turns."""
    blocks = [taken[metric] for block, taken in samples_by_block(record) if not block.dropped and metric in taken]
    samples = record.metrics[metric].samples
    count = len(record.context.get("turns") or samples)
    size = len(samples) // count if count and len(samples) % count == 0 else 1
    return blocks or [samples[start : start + size] for start in range(0, len(samples), size)]
