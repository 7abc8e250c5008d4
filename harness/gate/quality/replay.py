"""Decision rules replayed on recorded traces: how often each cries wolf, what it catches, what it costs.

A window is one gate run on one cell. Windows are disjoint: no pair of turns is used twice for one effect. Ours takes
a few pairs of one session, the next few of the next (the worker is restarted in between), until it has decided. The
rules of others get a fixed number of turns a side, taken as their users take them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from harness.gate.quality.rules_of_others import Rule
from harness.gate.quality.trace import SAME, Trace
from harness.gate.statistics.sequential import VISIT_SIZES, Design, decide, pairs_per_visit, turn_value
from harness.gate.verdict import Verdict
from harness.records.conditions import STOLEN, WAITED

STORED_SECONDS = 600.0
"""How old a stored baseline is."""

DESIGNS = ("sequential", "interleaved", "stored")
"""B right after A in the same workers; both in pairs; B against an A of ten minutes before."""


@dataclass(frozen=True)
class Share:
    """A counted proportion with its exact two-sided 95% interval (Clopper and Pearson 1934)."""

    count: int
    windows: int

    @property
    def value(self) -> float:
        """The proportion; not a number without a window."""
        return self.count / self.windows if self.windows else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end."""
        rest = self.windows - self.count
        low = float(special.betaincinv(self.count, rest + 1, 0.025)) if self.count else 0.0
        high = float(special.betaincinv(self.count + 1, rest, 0.975)) if rest else 1.0
        return low, high

    @property
    def highest(self) -> float:
        """The one-sided 95% bound: 3 in 100 for none of 100."""
        rest = self.windows - self.count
        return float(special.betaincinv(self.count + 1, rest, 0.95)) if rest else 1.0


# --- ours -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """How one replayed gate run ended."""

    verdict: Verdict
    pairs: int
    seconds: float
    """Wall time of its turns, both sides."""
    processes: int


@dataclass(frozen=True)
class Ours:
    """All windows of one design on one effect."""

    windows: list[Window] = field(default_factory=list)

    def share(self, verdict: Verdict) -> Share:
        """How often it ended so."""
        return Share(Counter(window.verdict for window in self.windows)[verdict], len(self.windows))

    def decided_by(self, verdict: Verdict, seconds: float) -> float:
        """Share of windows that had ended with `verdict` after so many seconds."""
        return sum(one.verdict == verdict and one.seconds <= seconds for one in self.windows) / len(self.windows)

    @property
    def seconds(self) -> np.ndarray:
        """Measuring time of every window."""
        return np.array([window.seconds for window in self.windows])


def log_ratios(trace: Trace, cell: str, variant: str) -> list[np.ndarray]:
    """log(variant / base) of every pair, session by session."""
    return [np.log(_values(slow) / _values(base)) for base, slow in trace.pairs(cell, variant)]


def replay(trace: Trace, cell: str, variant: str, design: Design) -> Ours:
    """Our rule on every disjoint window of one cell: a visit to a session, on to the next until decided."""
    done, turn_seconds = Ours(), trace.turn_seconds(cell)
    pairs, design, recording = (
        pairs_per_visit(turn_seconds),
        design.paced(turn_seconds),
        Recording(trace, cell, variant),
    )
    taken: list[Visit] = []
    while (visit := recording.visit(pairs * VISIT_SIZES[len(taken)])) is not None:
        taken.append(visit)
        decision = decide([one.log_ratios for one in taken], design)
        if decision is not None:
            seconds = 2 * sum(one.taken for one in taken) * turn_seconds
            done.windows.append(Window(decision.verdict, decision.effect.pairs, seconds, len(taken)))
            taken = []
    return done


@dataclass(frozen=True)
class Visit:
    """What a window takes from one session."""

    log_ratios: np.ndarray
    taken: int
    """Pairs that it took, those included whose pairs were disturbed and taken again."""


class Recording:
    """One cell's pairs of a variant and `base`, handed out visit by visit, going round the sessions."""

    def __init__(self, trace: Trace, cell: str, variant: str) -> None:
        self.ratios = log_ratios(trace, cell, variant)
        self.disturbed = [lost > min(WAITED, STOLEN) for lost in trace.lost(cell, variant)]
        self.given = [0] * len(self.ratios)
        self.last = -1

    def visit(self, pairs: int) -> Visit | None:
        """So many pairs of the next session that has them; None when none has. Few disturbed ones are taken again."""
        for step in range(1, len(self.ratios) + 1):
            number = (self.last + step) % len(self.ratios)
            session, start = self.ratios[number], self.given[number]
            if start + pairs <= len(session):
                visit = _visit(session[start:], self.disturbed[number][start:], pairs)
                self.given[number] += visit.taken
                self.last = number
                return visit
        return None


def _visit(session: np.ndarray, disturbed: np.ndarray, count: int) -> Visit:
    again = int(disturbed[:count].sum())
    if not 0 < again <= count // 2 or count + again > len(session):
        return Visit(session[:count], count)
    kept = session[:count][~disturbed[:count]]
    return Visit(np.concatenate([kept, session[count : count + again]]), count + again)


def together(parts: Sequence[Ours]) -> Ours:
    """The windows of several cells."""
    return Ours([window for part in parts for window in part.windows])


def flipped(
    trace: Trace,
    cell: str,
    design: Design,
    trials: int,
    by: str,
    rng: np.random.Generator,
) -> Share:
    """False alarms when the recorded A/A magnitudes get random signs: a check of the bound that needs no luck.

    Each visit of a trial is a stretch of a session drawn at random.
    `by` "pair": every sign a coin, which is what random order inside a pair guarantees. `by` "process": one coin for
    all pairs of a visit, as if whatever happened in it were the fault of one worker.
    """
    sessions, turn_seconds = log_ratios(trace, cell, SAME), trace.turn_seconds(cell)
    pairs, design = pairs_per_visit(turn_seconds), design.paced(turn_seconds)
    alarms = 0
    for _ in range(trials):
        window = [_stretch(sessions, pairs * size, rng) for size in VISIT_SIZES]
        signed = [visit * rng.choice((-1.0, 1.0), len(visit) if by == "pair" else 1) for visit in window]
        alarms += _first_verdict(signed, design) == Verdict.REGRESSION
    return Share(alarms, trials)


def _stretch(sessions: list[np.ndarray], pairs: int, rng: np.random.Generator) -> np.ndarray:
    session = sessions[int(rng.integers(len(sessions)))]
    start = int(rng.integers(max(1, len(session) - pairs + 1)))
    return session[start : start + pairs]


def _first_verdict(blocks: list[np.ndarray], design: Design) -> Verdict | None:
    for count in range(design.processes, len(blocks) + 1):
        decision = decide(blocks[:count], design)
        if decision is not None:
            return decision.verdict
    return None


def _values(turns: np.ndarray) -> np.ndarray:
    """One number a turn."""
    return np.array([turn_value(turn) for turn in turns])


# --- others ---------------------------------------------------------------------------------------------


def replay_rule(trace: Trace, cell: str, variant: str, rule: Rule, turns: int, taken: str) -> Share:
    """How often a rule calls the variant slower, over all disjoint windows of `turns` turns a side.

    `taken` is one of `DESIGNS`; "stored" asks for a trace of more than `STORED_SECONDS`, else there is no window.
    """
    windows = list(_windows(trace, cell, variant, turns, taken))
    if not windows:
        return Share(0, 0)
    a, b = (np.stack(side) for side in zip(*windows, strict=True))
    return Share(int(rule(a, b).sum()), len(windows))


def _windows(trace: Trace, cell: str, variant: str, turns: int, taken: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    sessions = trace.pairs(cell, variant)
    later = _sessions_later(trace) if taken == "stored" else 0
    shift = turns if taken == "sequential" else 0
    for (first, _), (_, second) in zip(sessions, sessions[later:], strict=False):
        for start in range(0, len(first) - turns - shift + 1, turns + shift):
            yield first[start : start + turns], second[start + shift : start + shift + turns]


def _sessions_later(trace: Trace) -> int:
    """How many sessions lie between a stored baseline and the run that is judged by it."""
    length = trace.seconds / max(1, len(trace.sessions))
    return max(1, round(STORED_SECONDS / length))
