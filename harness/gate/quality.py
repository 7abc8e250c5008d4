"""Writes `docs/gate_quality.md` from stored traces: `make quality`. Every figure is computed here, none is typed.

Slow on purpose: the check of the bound by flipped signs takes tens of thousands of replayed gate runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tabulate import tabulate

from harness.errors import EXIT_USAGE, UsageError
from harness.gate.accuracy_trials import AccuracyTrials
from harness.gate.plot import Line, Panel, svg
from harness.gate.replay import (
    DESIGNS,
    PAIRS_PER_VISIT,
    Ours,
    Share,
    flipped,
    log_ratios,
    replay,
    replay_rule,
    together,
)
from harness.gate.rules_of_others import RULES
from harness.gate.sequential import LOOKS, Design, Margins
from harness.gate.trace import BIMODAL, SAME, SLOWER, Trace, read_trace
from harness.gate.verdict import Verdict

STANDARD = Design()
FINE = replace(STANDARD, margins=Margins(0.005, 0.03), looks=(*LOOKS, 150, 190, 240))
DESIGN_OF = {SAME: (STANDARD, FINE), "+3%": (FINE, STANDARD), "+5%": (STANDARD,), "+10%": (STANDARD,),
             BIMODAL: (STANDARD,)}  # fmt: skip
"""Which designs are replayed on which variant."""

OTHERS_TURNS = 10
"""Turns a side that the rules of others get: the runs that benchstat's documentation asks for."""

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

    def ours(self, variant: str, design: Design) -> Ours:
        """Our windows over all cells."""
        return together([replay(self.trace, cell, variant, design) for cell in self.cells])

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
        lines = [
            f"`results/traces/{header.name}.jsonl.gz`: {self.trace.seconds / 60:.0f} minutes, {len(sessions)} sessions "
            f"with fresh workers, {header.neighbours} competing processes, one-minute load {loads:.1f} (median), on "
            f"{facts['cpu_count']} x {facts['cpu_model']}; checkpoint `{header.checkpoint}`, variant "
            f"`{header.variant}`, commit `{header.context['git'].get('commit', 'unknown')[:12]}`. Starting the "
            f"{len(header.planted)} workers of a session took {np.median([s.start_seconds for s in sessions]):.0f} s.",
            "",
            table(
                ("cell", "one call, ms", "turn, ms", "noise of a pair", "real slow-downs"), map(self._cell, self.cells)
            ),
        ]
        return "\n".join(lines)

    def _cell(self, cell: str) -> tuple[str, ...]:
        call = np.median(np.concatenate(self.trace.turns(cell, "base")))
        same = np.concatenate(log_ratios(self.trace, cell, SAME))
        noise = 1.4826 * np.median(np.abs(same - np.median(same)))
        real = {
            name: np.median(np.concatenate(log_ratios(self.trace, cell, name))) for name in SLOWER if name != "base"
        }
        found = ", ".join(f"{name}: {100 * np.expm1(log) + 0.0:+.1f}%" for name, log in real.items())
        spread = f"{100 * noise:.1f}% (p99 {100 * np.quantile(np.abs(same), 0.99):.0f}%)"
        return cell, f"{call:.1f}", f"{1e3 * self.trace.turn_seconds(cell):.0f}", spread, found

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

    def goals(self) -> list[tuple[str, str, str, str]]:
        """Goal, what was measured, whether it was reached; a row each."""
        same, slow = self.ours(SAME, STANDARD), self.ours("+5%", STANDARD)
        largest = max(self.cells, key=self.trace.turn_seconds)
        spent = float(replay(self.trace, largest, SAME, STANDARD).seconds.mean())
        name = self.trace.header.name
        shares = [
            ("+5% is found", slow.share(Verdict.REGRESSION), 0.99, True),
            ("+3% is found where 3% is asked for", self.ours("+3%", FINE).share(Verdict.REGRESSION), 0.95, True),
            ("bimodal +5% is found", self.ours(BIMODAL, STANDARD).share(Verdict.REGRESSION), 0.85, True),
            ("unchanged and inconclusive", same.share(Verdict.INCONCLUSIVE), 0.01, False),
            ("unchanged and called slower", same.share(Verdict.REGRESSION), STANDARD.alpha, False),
        ]
        rows = [
            (name, text, f"{'at least' if least else 'at most'} {100 * goal:g}%", _judged(share, goal, least))
            for text, share, goal, least in shares
        ]
        verdict = "reached" if spent <= 5 else "missed"
        return [*rows, (name, f"seconds of measuring, unchanged, {largest}", "at most 5", f"{spent:.1f}: {verdict}")]


# --- the document ---------------------------------------------------------------------------------------


def document(traces: Sequence[Quality], accuracy: AccuracyTrials) -> str:
    """The whole text."""
    fewest = min(quality.ours(name, all[0]).share(Verdict.PASS).windows
                 for quality in traces for name, all in DESIGN_OF.items())  # fmt: skip
    parts = [
        INTRODUCTION.format(
            visit=PAIRS_PER_VISIT, alpha=STANDARD.alpha, miss=STANDARD.miss, looks=", ".join(map(str, LOOKS))
        ),
        f"At least {fewest} windows stand behind every share of the first design of an effect.",
        "## Goals",
        table(("trace", "what", "goal", "measured"), [row for quality in traces for row in quality.goals()]),
    ]
    for quality in traces:
        parts += _sections(quality)
    return "\n\n".join([*parts, "## Accuracy on the same documents", accuracy.text()]) + "\n"


def _sections(quality: Quality) -> Iterable[str]:
    name = quality.trace.header.name
    yield f"## The trace `{name}`"
    yield quality.recording()
    yield f"### Ours on `{name}`"
    yield quality.verdicts()
    yield quality.bound()
    yield f"### The rules of others on `{name}`"
    yield OTHERS.format(turns=OTHERS_TURNS, seconds=2 * OTHERS_TURNS * quality.turn_seconds)
    yield quality.side_by_side()
    yield f"![alarms and open questions against time](gate_quality_{name}.svg)"


INTRODUCTION = """# How good the gate is

Made by `make quality` from the traces under `results/traces/`, which `make traces` records; no figure is typed.

A trace holds turns of real cells of this harness: live workers that take turns in random order, restarted every
session. `base` and `same` are the same code; `+3%`, `+5%` and `+10%` do that much more work (small matrix products
after every call, calibrated once a trace); in `bimodal` half of the calls work 10% longer.

A window is one gate run on one cell; no pair of turns is in two windows of one effect. Ours takes {visit} pairs a
visit, with fresh workers for every visit, looks at {looks} pairs, and stops when it has
decided: alpha {alpha:g} a cell (1% over 100 cells), and at most {miss:g} of what is to be caught is passed.
Intervals are exact (Clopper and Pearson), 95%; windows that share a session are not quite independent."""

OTHERS = """A rule's name stands for its decision applied to these samples, not for running the tool. Each gets {turns}
turns a side ({seconds:.1f} s a cell on average). Sequential: B's turns after A's, in the same workers; interleaved:
both in the same rounds; stored: A from ten minutes before. None of them can say "inconclusive"."""


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


def write(traces: Sequence[Path], out: Path, flips: int = FLIPS) -> None:
    """Make the document and its plots. Raises UsageError when a trace cannot be read or there is none."""
    if not traces:
        raise UsageError("no trace; `make traces` records them", "results/traces")
    found = [Quality(read_trace(path), flips) for path in traces]
    out.write_text(document(found, AccuracyTrials.simulate()))
    for quality in found:
        out.with_name(f"{out.stem}_{quality.trace.header.name}.svg").write_text(quality.plot())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m harness.gate.quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/gate_quality.md"))
    parser.add_argument("traces", type=Path, nargs="*", default=sorted(Path("results/traces").glob("*.jsonl.gz")))
    args = parser.parse_args(argv)
    try:
        write(args.traces, args.out)
    except UsageError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
