"""What a trace says about the gate: shares, bounds, costs, and the rules of others beside it, as text and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tabulate import tabulate

from harness.gate.quality.plot import Line, Panel, svg
from harness.gate.quality.replay import (
    DESIGNS,
    Ours,
    Share,
    flipped,
    log_ratios,
    replay,
    replay_rule,
    together,
)
from harness.gate.quality.rules_of_others import RULES
from harness.gate.quality.trace import BIMODAL, SAME, SLOWER, Trace
from harness.gate.statistics.sequential import Design, Margins
from harness.gate.verdict import Verdict

STANDARD = Design()
FINE = replace(STANDARD, margins=Margins(0.005, 0.03))
DESIGN_OF = {SAME: (STANDARD, FINE), "+3%": (FINE, STANDARD), "+5%": (STANDARD,), "+10%": (STANDARD,),
             BIMODAL: (STANDARD,)}  # fmt: skip
"""Which designs are replayed on which variant."""

OTHERS_TURNS = 40
"""Turns a side that the rules of others get: four times the runs that benchstat's documentation asks for."""

PLOTTED_TURNS = (4, 6, 10, 20, 40)
PLOTTED_RULES = ("fixed 5% on means", "pytest-benchmark `min:5%`", "benchstat (Mann-Whitney)", "asv --factor 1.05",
                 "pyperf (t-test)")  # fmt: skip

FLIPS = 20_000
"""Gate runs with flipped signs, for each cell."""


@dataclass(frozen=True)
class Quality:
    """Everything that is computed from one trace."""

    trace: Trace
    flips: int = FLIPS

    @cached_property
    def cells(self) -> list[str]:
        """Names of the trace's cells."""
        return [cell.name for cell in self.trace.header.cells]

    @cached_property
    def _replayed(self) -> dict[tuple[str, Design], Ours]:
        return {}

    def ours(self, variant: str, design: Design) -> Ours:
        """Our windows over all cells."""
        if (variant, design) not in self._replayed:
            found = together([replay(self.trace, cell, variant, design) for cell in self.cells])
            self._replayed[variant, design] = found
        return self._replayed[variant, design]

    def others(self, rule: str, variant: str, taken: str, turns: int = OTHERS_TURNS) -> Share:
        """Alarms of another tool's rule over all cells."""
        shares = [replay_rule(self.trace, cell, variant, RULES[rule], turns, taken) for cell in self.cells]
        return Share(sum(share.count for share in shares), sum(share.windows for share in shares))

    def flipped(self, by: str) -> Share:
        """Alarms under flipped signs over all cells."""
        rng = np.random.default_rng(0)
        shares = [flipped(self.trace, cell, STANDARD, self.flips, by, rng) for cell in self.cells]
        return Share(sum(share.count for share in shares), sum(share.windows for share in shares))

    @property
    def turn_seconds(self) -> float:
        """Wall time of one turn, averaged over the cells."""
        return float(np.mean([self.trace.turn_seconds(cell) for cell in self.cells]))

    # --- sections -------------------------------------------------------------------------------------

    def recording(self) -> str:
        """What was recorded, and how noisy it is."""
        header, sessions = self.trace.header, self.trace.sessions
        facts = header.context["machine"]
        loads = np.median([session.load[0] for session in sessions])
        beside = ", beside ".join([f"{header.neighbours} competing processes", *filter(None, [header.beside])])
        lines = [
            f"`results/traces/{header.name}.jsonl.gz`: {self.trace.seconds / 60:.0f} minutes, {len(sessions)} sessions "
            f"with fresh workers, {beside}, one-minute load {loads:.1f} (median), on "
            f"{facts['cpu_count']} x {facts['cpu_model']}; checkpoint `{header.checkpoint}`, variant "
            f"`{header.variant}`, commit `{header.context['git'].get('commit', 'unknown')[:12]}`. Starting the "
            f"{len(header.planted)} workers of a session took {np.median([s.start_seconds for s in sessions]):.0f} s.",
            "",
            table(
                ("cell", "one call, ms", "turn, ms", "sessions differ by", "noise of a pair", "real slow-downs"),
                map(self._cell, self.cells),
            ),
        ]
        return "\n".join(lines)

    def _cell(self, cell: str) -> tuple[str, ...]:
        call = np.median(np.concatenate([base for base, _ in self.trace.pairs(cell, SAME)]))
        same = np.concatenate(log_ratios(self.trace, cell, SAME))
        noise = 1.4826 * np.median(np.abs(same - np.median(same)))
        real = {
            name: np.median(np.concatenate(log_ratios(self.trace, cell, name))) for name in SLOWER if name != "base"
        }
        found = ", ".join(f"{name}: {100 * np.expm1(log) + 0.0:+.1f}%" for name, log in real.items())
        spread = f"{100 * noise:.1f}% (p99 {100 * np.quantile(np.abs(same), 0.99):.0f}%)"
        spaced = ", spaced" if any(one.spaced for one in self.trace.header.cells if one.name == cell) else ""
        turn = f"{1e3 * self.trace.turn_seconds(cell):.0f}{spaced}"
        return cell, f"{call:.1f}", turn, f"{self.drift(cell):.0%}", spread, found

    def drift(self, cell: str) -> float:
        """How much more than a fast session (5th percentile) a slow one (95th) takes for the same code, medians."""
        low, high = np.quantile([np.median(base) for base, _ in self.trace.pairs(cell, SAME)], (0.05, 0.95))
        return float(high / low - 1)

    def verdicts(self) -> str:
        """Our rule on every effect."""
        rows = [_ours_row(name, design, self.ours(name, design)) for name, all in DESIGN_OF.items() for design in all]
        headers = ("B is", "catch / tolerate", "windows", "regression", "pass", "inconclusive", "improvement",
                   "pairs", "seconds a cell, mean / p95")  # fmt: skip
        return table(headers, rows)

    def bound(self) -> str:
        """The bound by construction, the direct count, and the check that needs no luck."""
        direct = self.ours(SAME, STANDARD).share(Verdict.REGRESSION)
        rows = [
            ("by construction, signs of pairs", f"at most {STANDARD.alpha:g}"),
            ("counted directly on A/A windows", _exact(direct)),
            ("signs of recorded A/A pairs flipped at random", _exact(self.flipped("pair"))),
            (
                "signs of whole visits flipped, as if every difference were the process's",
                _exact(self.flipped("process")),
            ),
        ]
        return table(("false alarms per cell", "share"), rows)

    def side_by_side(self) -> str:
        """The rules of others on the same data."""
        rows = [self._other(rule) for rule in RULES]
        return table(("rule, alarms in %: " + " / ".join(DESIGNS), *(_spoken(name) for name in DESIGN_OF)), rows)

    def _other(self, rule: str) -> tuple[str, ...]:
        entries = [[self.others(rule, name, taken) for taken in DESIGNS] for name in DESIGN_OF]
        return rule, *(" / ".join(_percent(share) for share in shares) for shares in entries)

    def plot(self) -> str:
        """False alarms, detection and open questions against time spent a cell."""
        same, slow = self.ours(SAME, STANDARD), self.ours("+5%", STANDARD)
        ends = np.quantile(np.concatenate([same.seconds, slow.seconds]), [0, 1])
        times = [float(x) for x in np.geomspace(ends[0], ends[1], 60)]
        undecided = {
            name: [(x, 1 - sum(done.decided_by(verdict, x) for verdict in Verdict)) for x in times]
            for name, done in (("ours", same), ("ours, B 5% slower", slow))
        }
        return svg(
            [
                Panel("alarms, B is the same", [self._ours_line(same, times), *self._other_lines(SAME)]),
                Panel("alarms, B is 5% slower", [self._ours_line(slow, times), *self._other_lines("+5%")]),
                Panel("still open", [Line(name, points, strong=True) for name, points in undecided.items()]),
            ],
            "seconds of measuring a cell",
        )

    def _ours_line(self, done: Ours, times: Sequence[float]) -> Line:
        return Line("ours", [(x, done.decided_by(Verdict.REGRESSION, x)) for x in times], strong=True)

    def _other_lines(self, variant: str) -> list[Line]:
        return [Line(rule, self._other_points(rule, variant)) for rule in PLOTTED_RULES]

    def _other_points(self, rule: str, variant: str) -> list[tuple[float, float]]:
        every = [(turns, self.others(rule, variant, "sequential", turns)) for turns in PLOTTED_TURNS]
        return [(2 * turns * self.turn_seconds, share.value) for turns, share in every if share.windows]

    def goals(self) -> list[tuple[str, ...]]:
        """Goal, what was measured, whether it was reached; a row each."""
        name = self.trace.header.name
        largest = max(self.cells, key=self.trace.turn_seconds)
        spent = float(replay(self.trace, largest, SAME, STANDARD).seconds.mean())
        verdict = "reached" if spent <= 5 else "missed"
        seconds = (name, f"seconds of measuring, unchanged, {largest}", "at most 5", f"{spent:.1f}: {verdict}", "")
        return [*shares_reached(name, [self]), seconds]


def shares_reached(name: str, traces: Sequence[Quality]) -> list[tuple[str, ...]]:
    """Goals that are shares of windows, over the windows of some traces together; a row each."""

    def share(variant: str, design: Design, verdict: Verdict) -> Share:
        return together([one.ours(variant, design) for one in traces]).share(verdict)

    shares = [
        ("+5% is found", share("+5%", STANDARD, Verdict.REGRESSION), 0.99, True),
        ("+10% is found", share("+10%", STANDARD, Verdict.REGRESSION), 0.99, True),
        ("+3% is found where 3% is asked for", share("+3%", FINE, Verdict.REGRESSION), 0.95, True),
        ("bimodal +5% is found", share(BIMODAL, STANDARD, Verdict.REGRESSION), 0.85, True),
        ("unchanged and inconclusive", share(SAME, STANDARD, Verdict.INCONCLUSIVE), 0.01, False),
        ("unchanged and called slower", share(SAME, STANDARD, Verdict.REGRESSION), STANDARD.alpha, False),
    ]
    return [
        (
            name,
            text,
            f"{'at least' if least else 'at most'} {100 * goal:g}%",
            _judged(one, goal, least),
            f"{one.windows}",
        )
        for text, one, goal, least in shares
    ]


# --- words ----------------------------------------------------------------------------------------------


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    return tabulate(list(rows), headers, tablefmt="github", disable_numparse=True)


def _ours_row(name: str, design: Design, done: Ours) -> tuple[str, ...]:
    verdicts = (Verdict.REGRESSION, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.IMPROVEMENT)
    margins = f"{100 * design.margins.catch:g}% / {100 * design.margins.tolerate:g}%"
    pairs = f"{np.mean([window.pairs for window in done.windows]):.0f}" if done.windows else "-"
    spent = f"{done.seconds.mean():.1f} / {np.quantile(done.seconds, 0.95):.1f}" if done.windows else "-"
    shares = [_with_interval(done.share(verdict)) for verdict in verdicts]
    return _spoken(name), margins, str(len(done.windows)), *shares, pairs, spent


def _spoken(name: str) -> str:
    return {SAME: "the same", BIMODAL: "bimodal +5%"}.get(name, name)


def _percent(share: Share) -> str:
    return f"{100 * share.value:.3g}" if share.windows else "-"


def _with_interval(share: Share) -> str:
    low, high = share.interval
    return f"{_percent(share)}% [{100 * low:.2g}, {100 * high:.3g}]" if share.windows else "-"


def _exact(share: Share) -> str:
    low, high = share.interval
    return f"{share.count} of {share.windows:,}: {share.value:.2g} [{low:.2g}, {high:.2g}]"


def _judged(share: Share, goal: float, least: bool) -> str:
    """Reached by the estimate, and whether the interval proves it."""
    if not share.windows:
        return "no window"
    low, high = share.interval
    reached = share.value >= goal if least else share.value <= goal
    proven = low >= goal if least else high <= goal
    return f"{_with_interval(share)}: {'proven' if proven else 'reached' if reached else 'missed'}"
