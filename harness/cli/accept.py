"""`harness accept RUN --reason TEXT`: make a run the baseline of its suite on its machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import flags, gating, output
from harness.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from harness.gate.baselines.baseline import Baseline

EXAMPLES = """  harness accept results/quickstart-20260101T000000Z --reason "first baseline on the build machine"
  harness accept results/longctx-20260102T000000Z --reason "DSA keeps twice the keys; +6% TTFT agreed in review"

Commit the folder that it prints. A run that `--only` narrowed replaces its own cells and leaves the others."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "accept", "make a stored run the accepted baseline of its suite", EXAMPLES)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a stored run in which every cell passed")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why these values are right; kept for good")
    parser.add_argument("--by", metavar="NAME", help="who accepts them (default: git's user.name)")
    parser.add_argument(
        "--suite", metavar="FILE", type=Path, help="suite whose `gate:` section holds the rules (default: RUN's own)"
    )
    parser.add_argument(
        "--baselines", metavar="DIR", type=Path, default=Path("results/baselines"),
        help="folder of accepted baselines (default: results/baselines)",
    )  # fmt: skip
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.gate.baselines.baseline import Reason, accept
    from harness.records.store import RunFolder

    if not args.reason.strip():
        raise UsageError("a baseline without a reason cannot be reviewed; say why these values are right", "--reason")
    rules, run = gating.rules_from(args.suite, args.run), RunFolder.open(args.run)
    baseline = accept(run, rules, args.baselines, Reason(args.by or _user(), args.reason.strip()))
    newest = baseline.acceptances[-1]
    output.emit(f"accepted {len(newest.values)} cells in {baseline.path}")
    for title, lines in (("changed", newest.changes), ("new, or not comparable before", newest.fresh),
                         ("no longer there", newest.dropped)):  # fmt: skip
        if lines and len(baseline.acceptances) > 1:
            output.emit("\n  ".join([f"{title}:", *lines]))
    for line in gating.baseline_notes(baseline, rules):
        output.emit(line)
    if disturbed := _disturbed(baseline):
        what = "an overloaded machine: they will call nothing; run it again when the machine is free"
        print(f"harness: the times of {disturbed} cells are of {what}", file=sys.stderr)
    if newest.dirty:
        print("harness: the run's code had uncommitted changes, so nobody can check it out again", file=sys.stderr)
    return EXIT_OK


def _disturbed(baseline: Baseline) -> int:
    """How many cells have times that are no evidence."""
    from harness.gate.statistics.units import disturbance

    return sum(disturbance(record) is not None for record in baseline.folder.records())


def _user() -> str:
    """Git's user.name, or the name of the account."""
    import getpass
    import subprocess

    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    except OSError:
        return getpass.getuser()
    return done.stdout.strip() or getpass.getuser()
