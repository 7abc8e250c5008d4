"""Writes `docs/gate_quality.md` from stored traces: `make quality`. Every figure is computed, none is typed.

Slow on purpose: the check of the bound by flipped signs takes tens of thousands of replayed gate runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from harness.errors import EXIT_USAGE, UsageError
from harness.gate.live.lane import SPACED_SECONDS
from harness.gate.quality import trials
from harness.gate.quality.accuracy_trials import AccuracyTrials
from harness.gate.quality.figures import DESIGN_OF, FLIPS, OTHERS_TURNS, STANDARD, Quality, shares_reached, table
from harness.gate.quality.trace import read_trace
from harness.gate.quality.trials import Trial
from harness.gate.statistics.sequential import FEWEST_VISITS, VISIT_SECONDS, VISIT_SIZES
from harness.records.store import RunEnd, RunFolder
from harness.run import machine


def document(
    traces: Sequence[Quality],
    accuracy: AccuracyTrials,
    live: Sequence[Trial] = (),
    ends: Mapping[str, RunEnd] | None = None,
    each: Callable[..., Iterable[Any]] = map,
) -> str:
    """The whole text; `live` are stored trials of the whole gate, `ends` say where stored runs' time went.

    `each` maps a function over the traces, as `map` does, or several at once.
    """
    fewest = min(sum(len(quality.ours(name, all[0]).windows) for quality in traces) for name, all in DESIGN_OF.items())
    pooled = shares_reached("all", traces) if len(traces) > 1 else []
    parts = [
        INTRODUCTION.format(
            spaced=1e3 * SPACED_SECONDS,
            visit=VISIT_SECONDS,
            longest=max(VISIT_SIZES),
            visits=len(VISIT_SIZES),
            least=FEWEST_VISITS,
            alpha=STANDARD.alpha,
            miss=STANDARD.miss,
        ),
        f"Over all traces at least {fewest} windows stand behind every share of the first design of an effect.",
        "## Goals",
        table(
            ("trace", "what", "goal", "measured", "windows"),
            [*pooled, *(row for quality in traces for row in quality.goals())],
        ),
    ]
    for sections in each(_sections, traces):
        parts += sections
    parts += ["## The whole gate", LIVE, *([trials.sample(live), trials.text(live)] if live else [NOT_TRIED])]
    if ends:
        parts += ["## Where a run's time goes", TIME, table(TIME_HEADERS, map(_time, ends, ends.values()))]
    return "\n\n".join([*parts, "## Accuracy on the same documents", accuracy.text()]) + "\n"


def _sections(quality: Quality) -> list[str]:
    name = quality.trace.header.name
    return [
        f"## The trace `{name}`",
        quality.recording(),
        f"### Ours on `{name}`",
        quality.verdicts(),
        quality.bound(),
        f"### The rules of others on `{name}`",
        OTHERS.format(turns=OTHERS_TURNS, seconds=2 * OTHERS_TURNS * quality.turn_seconds),
        quality.side_by_side(),
        f"![alarms and open questions against time](gate_quality_{name}.svg)",
    ]


def _time(name: str, end: RunEnd) -> tuple[str, ...]:
    """One run against the goals: 85% measuring, at most a third of that warm-up."""
    reached = end.measuring >= MEASURING and end.warming <= WARMING
    return name, f"{end.wall_seconds:.0f}", f"{end.measuring:.0%}", f"{end.warming:.0%}", "yes" if reached else "no"


MEASURING, WARMING = 0.85, 1 / 3

TIME = """Of the wall time without starting workers at least 85% should be spent inside measured or warm-up blocks, and
at most a third of that on warm-up. Every run ends with these figures and stores them in `end.json`."""

TIME_HEADERS = ("run", "seconds", "measuring", "of that warm-up", "reached")

INTRODUCTION = """# How good the gate is

Made by `make quality` from the traces under `results/traces/`, which `make traces` records; no figure is typed.

A trace holds pairs of turns of real cells of this harness, taken as the live gate takes them: two live workers next to
each other, a coin deciding who goes first, all workers restarted every session. Where a cell's turns are not marked as
spaced, turns of one worker may follow each other, which a gate lets happen where they take {spaced:g} ms or more.
`base` and `same` are the same code; `+3%`, `+5%` and `+10%` do that much more work (small matrix products after every
call, for that share of the time that the very call took); in `bimodal` half of the calls work 10% longer.

Sessions differ by what the same code takes longer in a slow one (95th percentile of medians) than in a fast one (5th).

A window is one gate run on one cell; no pair of turns is in two windows of one effect. Ours takes about {visit:g} s of
pairs a visit (12 pairs at least), later up to {longest} times as many, with fresh workers for every visit, looks after
each from number {least} on, and stops when it has decided, at the latest after visit {visits}: alpha {alpha:g} a cell
(1% over 100 cells), and at most {miss:g} of what is to be caught is passed.
Intervals are exact (Clopper and Pearson), 95%; windows that share a session are not quite independent."""

OTHERS = """A rule's name stands for its decision applied to these samples, not for running the tool. Each gets {turns}
turns a side ({seconds:.1f} s a cell on average). Sequential: B's turns after A's, in the same workers; interleaved:
in pairs; stored: A from ten minutes before. They get the gate's clock too, which leaves out waiting for a processor,
as most of these tools do not. None of them can say "inconclusive"."""

LIVE = """`harness gate suites/quickstart.yaml --against HEAD` from end to end, as a user runs it, in a fresh clone
(`make trials`): nothing changed; absorbed attention computed twice in the plugin of the working tree; and the same in
the ref, so that the working tree is faster. A false alarm is a timed regression where nothing was planted."""


NOT_TRIED = "No such trial is stored yet, so nothing is said about the whole gate here."


def read_ends(runs: Sequence[Path]) -> dict[str, RunEnd]:
    """Run -> how it ended, for the stored runs that say so; one that only took former results over spent no time.

    Raises UsageError for a folder that is no run.
    """
    ends = {str(path): RunFolder.open(path).end() for path in runs}
    return {name: end for name, end in ends.items() if end is not None and end.finished and end.wall_seconds >= 1}


def write(
    traces: Sequence[Path], out: Path, live: Path | None = None, runs: Sequence[Path] = (), flips: int = FLIPS
) -> None:
    """Make the document and its plots. Raises UsageError without a trace, or with one that is broken or too short."""
    if not traces:
        raise UsageError("no trace; `make traces` records them", "results/traces")
    found = [Quality(read_trace(path), flips) for path in traces]
    for path, quality in zip(traces, found, strict=True):
        if not all(quality.ours(name, designs[0]).windows for name, designs in DESIGN_OF.items()):
            raise UsageError("is too short: not one gate run fits into it", str(path))
    tried = trials.read_trials(live) if live else []
    with ProcessPoolExecutor(machine.cpu_count()) as pool:
        out.write_text(document(found, AccuracyTrials.simulate(), tried, read_ends(runs), pool.map))
        for quality, plot in zip(found, pool.map(Quality.plot, found), strict=True):
            out.with_name(f"{out.stem}_{quality.trace.header.name}.svg").write_text(plot)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m harness.gate.quality.document", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/gate_quality.md"))
    parser.add_argument("traces", type=Path, nargs="*", default=sorted(Path("results/traces").glob("*.jsonl.gz")))
    parser.add_argument("--live", type=Path, default=Path("results/traces/live.jsonl"), help="trials of the whole gate")
    args = parser.parse_args(argv)
    runs = sorted(path.parent for path in Path("results/cpu").glob("*/run.json"))
    try:
        write(args.traces, args.out, args.live, runs)
    except UsageError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
