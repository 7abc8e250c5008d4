"""The live gate tried end to end: `python -m harness.gate.quality.trials`, resumable, one line a trial.

Each trial is one `harness gate SUITE --against REF`, run as a user runs it, in a clone of this repository's HEAD: with
nothing changed, with a slow-down planted in a plugin of the working tree, and with one planted in the ref. A trial
that ended is stored at once, and the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from tabulate import tabulate

from harness.errors import EXIT_USAGE, UsageError
from harness.gate.output.document import GateDocument
from harness.gate.quality.replay import Share
from harness.gate.verdict import Verdict
from harness.run.client import package_root

SAME, SLOWER_TREE, SLOWER_REF = "same", "slower working tree", "slower ref"
KINDS = {"aa": SAME, "tree": SLOWER_TREE, "ref": SLOWER_REF}
"""Names for `--only`."""
PLANNED = {SAME: 20, SLOWER_TREE: 3, SLOWER_REF: 3}
"""How many of each kind say enough."""
SPOKEN = {SAME: "unchanged", SLOWER_TREE: "with a slower working tree", SLOWER_REF: "with a slower ref"}
MINUTES = 8.0
"""What one of `quickstart` takes on two free cores, about; stored trials know better."""

PLUGIN = "plugins/harness_plugins/native_forms.py"
PLANT = '''

_attend = Mqa.attend


def _attend_twice(self, call):
    """Planted by the gate's trials: absorbed attention computes everything twice."""
    _attend(self, call)
    return _attend(self, call)


Mqa.attend = _attend_twice
'''
SLOWED = "/mqa/"
"""Part of the ids of the variants that the plant slows down."""


class Trial(msgspec.Struct, frozen=True):
    """One gate run."""

    kind: str
    suite: str
    commit: str
    started: str
    seconds: float
    """Wall time of the command."""
    exit_code: int
    outcome: str
    verdicts: dict[str, int]
    """Of all findings."""
    timed: dict[str, int]
    """Of those that rest on a clock."""
    slowed: dict[str, int]
    """Of latencies of the variants that the plant slows down."""
    ratios: list[float]
    """Estimated new over base of those latencies."""
    false_alarms: list[str]
    """Cell and metric of timed regressions that nothing was planted for."""
    controls: dict[str, bool]
    """Control -> whether it got the right verdict."""


def run_trials(suite: Path, out: Path, wanted: dict[str, int]) -> list[Trial]:
    """Run what is missing of so many trials a kind, and return all that are stored.

    Only trials of the same suite count. Raises UsageError when the repository cannot be cloned or the gate leaves no
    report.
    """
    print(forecast(_of(suite, read_trials(out)), wanted), file=sys.stderr)
    for kind, count in wanted.items():
        while _counted(_of(suite, read_trials(out)))[kind] < count:
            trial = _trial(suite, kind)
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("ab") as file:
                file.write(msgspec.json.encode(trial) + b"\n")
            print(f"{kind}: {trial.outcome}, exit code {trial.exit_code}, {trial.seconds:.0f} s", file=sys.stderr)
            print(forecast(_of(suite, read_trials(out)), wanted), file=sys.stderr)
    return read_trials(out)


def forecast(stored: Sequence[Trial], wanted: Mapping[str, int]) -> str:
    """What is left of the wanted trials, and how long that will take at the pace of those that are stored.

    >>> forecast([], {SAME: 20, SLOWER_REF: 3})
    '0 of 23 trials are there; 23 to go, about 184 minutes (8.0 each)'
    """
    there = _counted(stored)
    missing = sum(max(0, count - there[kind]) for kind, count in wanted.items())
    each = statistics.median(trial.seconds for trial in stored) / 60 if stored else MINUTES
    total = sum(wanted.values())
    left = f"{missing} to go, about {missing * each:.0f} minutes ({each:.1f} each)" if missing else "none to go"
    return f"{total - missing} of {total} trials are there; {left}"


def _of(suite: Path, trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.suite == suite.stem]


def _counted(trials: Sequence[Trial]) -> Counter[str]:
    return Counter(trial.kind for trial in trials)


def read_trials(path: Path) -> list[Trial]:
    """Stored trials; none without a file. Raises UsageError for a line that is none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    try:
        return [msgspec.json.decode(line, type=Trial) for line in lines]
    except msgspec.DecodeError as error:
        raise UsageError(f"holds no trials: {error}", str(path)) from None


def text(trials: Sequence[Trial]) -> str:
    """What came out, as a markdown table; a row a kind."""
    headers = ("changed", "trials", "exit codes", "timed findings", "slowed cells called", "by", "false alarms",
               "controls held", "minutes")  # fmt: skip
    kinds = dict.fromkeys(trial.kind for trial in trials)
    rows = [_row(kind, [trial for trial in trials if trial.kind == kind]) for kind in kinds]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def sample(trials: Sequence[Trial]) -> str:
    """How many there are of how many, and what the unchanged ones rule out at 95%."""
    there = _counted(trials)
    counts = ", ".join(f"{there[kind]} of {count} {SPOKEN[kind]}" for kind, count in PLANNED.items())
    if not there[SAME]:
        return f"Trials so far: {counts}. Without an unchanged one nothing is known about false alarms."
    unchanged = [trial for trial in trials if trial.kind == SAME]
    alarmed = Share(sum(bool(trial.false_alarms) for trial in unchanged), len(unchanged))
    return (
        f"Trials so far: {counts}, on {len({trial.commit for trial in trials})} commits. {alarmed.count} of "
        f"{alarmed.windows} unchanged runs cried wolf; at 95% the share of such runs is at most {alarmed.highest:.0%}."
    )


def _row(kind: str, trials: Sequence[Trial]) -> tuple[str, ...]:
    def counted(counts: Iterable[Mapping[str, int]]) -> str:
        total: Counter[str] = Counter()
        for one in counts:
            total.update(one)
        return ", ".join(f"{count} {name}" for name, count in total.most_common())

    return (
        {SAME: "nothing"}.get(kind, kind),
        str(len(trials)),
        counted({f"x {trial.exit_code}": 1} for trial in trials),
        counted(trial.timed for trial in trials),
        counted(trial.slowed for trial in trials) if kind != SAME else "",
        _range([ratio for trial in trials for ratio in trial.ratios]) if kind != SAME else "",
        str(sum(len(trial.false_alarms) for trial in trials)),
        f"{sum(all(trial.controls.values()) for trial in trials)} of {len(trials)}",
        f"{statistics.median(trial.seconds for trial in trials) / 60:.1f}",
    )


def _range(ratios: Sequence[float]) -> str:
    """Smallest and largest change."""
    return f"{100 * (min(ratios) - 1):+.0f}% to {100 * (max(ratios) - 1):+.0f}%" if ratios else "-"


def _trial(suite: Path, kind: str) -> Trial:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        _git(package_root(), "clone", "--quiet", "--no-tags", str(package_root()), str(clone))
        commit = _git(clone, "rev-parse", "HEAD")
        reference = _plant(clone, kind)
        started, begun = datetime.now(UTC), time.monotonic()
        done, document = _gate(clone, suite, reference, Path(folder))
        seconds = time.monotonic() - begun
    return _summary(kind, suite.stem, commit, started.isoformat(timespec="seconds"), seconds, done, document)


def _plant(clone: Path, kind: str) -> str:
    """Change the clone as the trial asks; returns the ref to gate against."""
    plugin = clone / PLUGIN
    if kind == SAME:
        return "HEAD"
    sound = plugin.read_text()
    plugin.write_text(sound + PLANT)
    if kind == SLOWER_TREE:
        return "HEAD"
    identity = ("-c", "user.name=trials", "-c", "user.email=trials@localhost")
    _git(clone, *identity, "commit", "--quiet", "--all", "--message", "a slow-down, planted")
    plugin.write_text(sound)
    return "HEAD"


def _gate(clone: Path, suite: Path, reference: str, folder: Path) -> tuple[int, GateDocument]:
    """Exit code and report of the gate, run from the clone."""
    report = folder / "report.json"
    command = [sys.executable, "-P", "-m", "harness.cli.main", "gate", str(suite), "--against", reference]
    command += ["--json", str(report), "--out", str(folder / "results")]
    path = os.pathsep.join([str(clone), str(clone / "plugins")])
    done = subprocess.run(
        command, cwd=clone, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if not report.exists():
        raise UsageError(f"left no report, exit code {done.returncode}: {done.stderr[-2000:]}", " ".join(command))
    return done.returncode, msgspec.json.decode(report.read_bytes(), type=GateDocument)


def _summary(
    kind: str, suite: str, commit: str, started: str, seconds: float, code: int, document: GateDocument
) -> Trial:
    findings = document.report.findings
    slowed = [one for one in findings if SLOWED in one.cell and one.metric in ("ttft", "tpot")]
    innocent = [one for one in findings if one.timed and (kind != SLOWER_TREE or SLOWED not in one.cell)]
    return Trial(
        kind=kind,
        suite=suite,
        commit=commit,
        started=started,
        seconds=round(seconds, 1),
        exit_code=code,
        outcome=str(document.outcome),
        verdicts=dict(Counter(str(one.verdict) for one in findings)),
        timed=dict(Counter(str(one.verdict) for one in findings if one.timed)),
        slowed=dict(Counter(str(one.verdict) for one in slowed)),
        ratios=[round(one.estimate, 4) for one in slowed if one.estimate is not None],
        false_alarms=[f"{one.cell} {one.metric}" for one in innocent if one.verdict == Verdict.REGRESSION],
        controls={control.name: control.holds for control in document.report.controls},
    )


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"git {arguments[0]}: {done.stderr.strip()}", str(folder))
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m harness.gate.quality.trials", description=__doc__)
    parser.add_argument("--suite", type=Path, default=Path("suites/quickstart.yaml"), help="relative to the repository")
    parser.add_argument("--out", type=Path, default=Path("results/traces/live.jsonl"))
    parser.add_argument(
        "--only", choices=tuple(KINDS), action="append", help="nothing changed, or planted there (repeatable)"
    )
    parser.add_argument("--count", type=int, help="trials of each kind (default: 20 unchanged, 3 with each plant)")
    args = parser.parse_args(argv)
    if args.count is not None and args.count < 1:
        parser.error(f"argument --count: {args.count} is not a whole number of at least 1")
    wanted = {kind: args.count or PLANNED[kind] for name, kind in KINDS.items() if name in (args.only or KINDS)}
    try:
        run_trials(args.suite, args.out.resolve(), wanted)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
    except UsageError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
