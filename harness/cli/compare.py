"""`harness compare BASE NEW`: two stored runs, or a baseline and a run, under the rules of a suite."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli import flags, gating

EXAMPLES = """  harness compare results/quickstart-20260101T000000Z results/quickstart-20260102T000000Z
  harness compare results/cpu/peers results/peers-20260102T000000Z --suite suites/peers.yaml --all
  harness compare OLD NEW --format markdown > comparison.md

Stored runs were not measured in turn, so small changes of a time stay undecided: `harness gate SUITE --against REF`
measures both versions side by side, now.

"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(
        commands, "compare", "judge one stored run by another, under a suite's rules", EXAMPLES + gating.EXIT_CODES
    )
    parser.add_argument("base", metavar="BASE", type=Path, help="folder of a stored run or an accepted baseline")
    parser.add_argument("new", metavar="NEW", type=Path, help="folder of a stored run")
    parser.add_argument(
        "--suite", metavar="FILE", type=Path, help="suite whose `gate:` section holds the rules (default: NEW's own)"
    )
    gating.add_report_flags(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.gate.compare import compare
    from harness.records.store import RunFolder

    rules = gating.rules_from(args.suite, args.new)
    name = RunFolder.open(args.new).header.name
    report = compare(gating.open_side(args.base), gating.open_side(args.new), rules, name, "runs")
    return gating.finish(report, args, args.suite)
