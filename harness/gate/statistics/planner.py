"""How much measuring a question needs: pairs of turns and seconds for times, documents for scores.

The noise comes from a stored run of the suite: what the two turns of a round differ by is what a pair of a gate will
differ by, and how that changes from process to process says how many restarts a verdict needs. Nothing is measured
here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from scipy import special

from harness.errors import UsageError
from harness.gate.statistics.agreement import agreement
from harness.gate.statistics.boundary import crossed_by
from harness.gate.statistics.levels import MAD_TO_DEVIATION
from harness.gate.statistics.paired import binary_loss, documents_needed, mean_loss
from harness.gate.statistics.sequential import FEWEST_VISITS, VISIT_SIZES, Design, Margins, turn_value
from harness.records.blocks import samples_by_block
from harness.records.joined import Joined, Losses, NotTheSameError
from harness.records.record import Record
from harness.records.statistics import t_quantile

TOLERATED = 0.2
"""Share of the effect to be detected that is tolerated: as 1% is of 5%."""

SURE = 0.95
"""The chance with which the effect is to be found within the time that is named."""

MEDIAN = math.pi / 2
"""Variance of a median over that of a mean, for normal noise."""

FEWEST = 3
"""Differences of turns from which noise is estimated at least."""

Turns = dict[int, dict[int, float]]
"""Process -> round -> log value of a turn."""


@dataclass(frozen=True)
class Noise:
    """What repeated turns of one cell differ by, as standard deviations of log times."""

    pair: float
    """Of the log ratio of two neighbouring turns, robust."""
    process: float
    """Of the log ratio's centre from process to process; 0 where that is not known."""
    turn_seconds: float
    """Wall time of one turn."""

    @classmethod
    def of(cls, record: Record, metric: str, beside: Record | None) -> Noise | None:
        """From the blocks of a stored record and of one that took its turns in the same rounds.

        Without the second, neighbouring turns of one process stand for pairs, and drift hides how processes differ.
        None when there are fewer than `FEWEST` differences.
        """
        own = _log_turns(record, metric)
        ratios = _ratios(own, _log_turns(beside, metric)) if beside else own
        steps = [abs(after - before) for turns in ratios.values() for before, after in pairwise(turns.values())]
        if len(steps) < FEWEST:
            return None
        seconds = statistics.median(block.seconds for block in record.blocks if not block.dropped)
        scale = math.sqrt(2) if beside else 1.0  # a step between two ratios holds the noise of two pairs
        centres = [statistics.median(turns.values()) for turns in ratios.values() if turns]
        between = statistics.stdev(centres) if beside and len(centres) > 1 else 0.0
        return cls(MAD_TO_DEVIATION * statistics.median(steps) / scale, between, seconds)


@dataclass(frozen=True)
class TimeNeed:
    """What it takes to decide one cell."""

    unchanged_pairs: float
    """Pairs until an unchanged cell passes, on average."""
    changed_pairs: int | None
    """Pairs within which the effect is found (`SURE`); None when the cap of pairs is too small."""
    processes: int | None
    """Restarts that the spread of processes asks for; None when more than pairs at the cap."""
    turn_seconds: float

    @property
    def unchanged_seconds(self) -> float:
        """Measuring time of both sides of an unchanged cell, on average."""
        return 2 * self.turn_seconds * self.unchanged_pairs

    @property
    def changed_seconds(self) -> float | None:
        """Measuring time of both sides within which the effect is found."""
        return None if self.changed_pairs is None else 2 * self.turn_seconds * self.changed_pairs


def design_for(effect: float, cells: int, alpha: float = 0.01) -> Design:
    """The gate's design for so many cells when a slow-down of `effect` is to be found. Raises UsageError."""
    if not 0 < effect < 1:
        raise UsageError(f"an effect to detect is between 0% and 100%, not {100 * effect:g}%", "--detect")
    return Design(Margins(TOLERATED * effect, effect), alpha=alpha).over(max(1, cells))


def time_need(noise: Noise, design: Design) -> TimeNeed:
    """Pairs and restarts for the design's margins, for noise that is normal about the true ratio."""
    design = design.paced(noise.turn_seconds)
    tolerate, catch = math.log1p(design.margins.tolerate), math.log1p(design.margins.catch)
    passes = _decided_by(noise, design, catch, design.miss, design.doubt)
    found = _decided_by(noise, design, catch - tolerate, design.alpha, design.disagreement)
    return TimeNeed(
        unchanged_pairs=_mean_pairs(design.looks, passes),
        changed_pairs=next((look for look, share in zip(design.looks, found, strict=True) if share >= SURE), None),
        processes=_processes(noise, design),
        turn_seconds=noise.turn_seconds,
    )


def smallest_effect(noise: Noise, cells: int, alpha: float = 0.01) -> float | None:
    """The smallest slow-down in whole tenths of a percent that the cap of pairs shows; None when not even 50%."""
    shown = (effect / 1000 for effect in range(1, 501))
    return next((one for one in shown if time_need(noise, design_for(one, cells, alpha)).changed_pairs), None)


def documents_for(base: Sequence[dict], new: Sequence[dict], metric: str, better: str, effect: float, alpha: float,
                  miss: float) -> int:  # fmt: skip
    """Documents that decide between no loss and one of `effect`, from two stored answers to the same documents.

    `effect` is in the metric's own unit (0.01 is a point). Raises UsageError when the sides cannot be paired.
    """
    try:
        losses = Joined.of(base, new).losses(metric, better == "higher")
    except NotTheSameError as reason:
        raise UsageError(str(reason)) from None
    return documents_needed(_variance(losses, alpha, miss), effect, alpha, miss)


def _variance(losses: Losses, alpha: float, miss: float) -> float:
    """Of one document's loss."""
    if losses.right_or_wrong and not losses.clustered:
        return binary_loss(losses.lost, losses.gained, len(losses.values), alpha, miss).variance
    return mean_loss(*losses.by_unit(), alpha=alpha, miss=miss).variance


def _log_turns(record: Record, metric: str) -> Turns:
    """Log values of the kept turns."""
    found: Turns = {}
    for block, samples in samples_by_block(record):
        if not block.dropped and samples.get(metric):
            found.setdefault(block.process, {})[block.round] = math.log(turn_value(samples[metric]))
    return found


def _ratios(own: Turns, beside: Turns) -> Turns:
    """Log ratios of the turns that were taken in the same round of the same process."""
    return {
        process: {number: value - beside[process][number] for number, value in turns.items()
                  if number in beside.get(process, {})}
        for process, turns in own.items()
    }  # fmt: skip


def _decided_by(noise: Noise, design: Design, distance: float, level: float, doubt: float) -> list[float]:
    """The chance that signs and processes have both said so by each look, for a centre so far from its margin."""
    signs = crossed_by(design.looks, level, _chance(distance, noise.pair))
    agree = (_agreement(noise, design, number, distance, doubt) for number in range(len(signs)))
    return list(accumulate((sign * agreed for sign, agreed in zip(signs, agree, strict=True)), max))


def _agreement(noise: Noise, design: Design, number: int, distance: float, level: float) -> float:
    """The chance that the processes of a look agree."""
    sizes = VISIT_SIZES[: FEWEST_VISITS + number]
    pairs = [size * design.looks[number] / sum(sizes) for size in sizes]
    variance = sum(count**2 * (noise.process**2 + MEDIAN * noise.pair**2 / count) for count in pairs)
    error, degrees = math.sqrt(variance) / sum(pairs), len(pairs) - 1
    return agreement(distance / error, level, degrees) if error else 1.0


def _chance(distance: float, deviation: float) -> float:
    """That a normal log ratio lies on the right side of a margin so far from its centre."""
    return 1.0 if deviation == 0 else float(special.ndtr(distance / deviation))


def _mean_pairs(looks: Sequence[int], crossed: Sequence[float]) -> float:
    """Mean of the look at which it ends; the cap for what never crosses."""
    shares = [crossed[0], *(after - before for before, after in pairwise(crossed))]
    return sum(look * share for look, share in zip(looks, shares, strict=True)) + looks[-1] * (1 - crossed[-1])


def _processes(noise: Noise, design: Design) -> int | None:
    """Restarts after which processes that differ so much still agree on a ratio half-way to a margin."""
    reach = math.log1p(design.margins.catch) - math.log1p(design.margins.tolerate)
    for count in range(design.processes, design.cap + 1):
        error = noise.process / math.sqrt(count)
        if error * t_quantile(1 - design.disagreement, count - 1) <= reach:
            return count
    return None
