"""`harness gate SUITE`: fail a build when a change makes something wrong, less accurate, slower or larger."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import flags, gating, self_testing
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.gate.verdict import GateReport

EXAMPLES = """  harness gate suites/quickstart.yaml --against origin/main     both versions measured in turn, now
  harness gate suites/quickstart.yaml --run NEW                 a stored run against the accepted baseline
  harness gate suites/quickstart.yaml --run NEW --base OLD      two stored runs
  harness gate suites/quickstart.yaml --self-test               what this gate catches on this machine

"""


REPORTS = {"--junit": "junit", "--markdown": "markdown", "--json": "json", "--github": "github", "--all": "all",
           "--inconclusive": "inconclusive", "--waivers": "waivers", "--baselines": "baselines"}  # fmt: skip
"""Flags that a self-test has no use for."""
MEASURING = {"--only": "only", "--set": "settings", "--checkpoint": "checkpoint", "--device": "device",
             "--threads": "threads", "--limit": "limit", "--seed": "seed", "--plugin": "plugins"}  # fmt: skip
"""Flags that nothing stored can heed."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "gate", "fail when a change breaks a suite's rules",
                              EXAMPLES + gating.EXIT_CODES)  # fmt: skip
    flags.add_suite_flags(parser)
    ways = parser.add_argument_group("what is compared (one of these)")
    ways.add_argument("--against", metavar="REF", help="measure the working tree and this git ref in turn, now")
    ways.add_argument("--run", metavar="RUN", type=Path, help="judge a stored run by the accepted baseline")
    ways.add_argument("--base", metavar="RUN", type=Path, help="with --run: judge it by this stored run")
    ways.add_argument(
        "--baselines", metavar="DIR", type=Path, help="folder of accepted baselines (default: results/baselines)"
    )
    ways.add_argument(
        "--self-test",
        action="store_true",
        help="this working tree against itself, unchanged and with defects planted: how often the gate cries wolf on "
        "this machine, and what it catches",
    )
    ways.add_argument("--times", metavar="N", type=flags.positive, help="unchanged runs of the self-test (default: 3)")
    gating.add_report_flags(parser)
    parser.set_defaults(main=main, fresh=True)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if sum(map(bool, (args.against, args.run, args.self_test))) != 1 or (args.base and not args.run):
        raise UsageError(
            "say what to compare: --against REF measures this working tree and a git ref now; --run RUN judges a "
            "stored run by the accepted baseline, and --run RUN --base RUN by another run; --self-test tries the gate"
        )
    if args.self_test:
        _refuse(args, REPORTS, "a self-test prints its own table and exits with 0 when every answer was right")
        return self_testing.main(args)
    _refuse(args, {"--times": "times"}, "it counts the unchanged runs of --self-test")
    if args.run:
        _refuse(args, MEASURING, "it says how to measure, and a stored run was measured already")
    if args.base or args.against:
        _refuse(args, {"--baselines": "baselines"}, "no baseline is asked")
    report = _stored(args) if args.run else _live(args)
    return gating.finish(report, args, args.suite)


def _refuse(args: argparse.Namespace, flags_there: dict[str, str], why: str) -> None:
    """Raise UsageError for the first flag that was given and would do nothing."""
    for flag, name in flags_there.items():
        if getattr(args, name):
            raise UsageError(f"means nothing here: {why}", flag)


def _stored(args: argparse.Namespace) -> GateReport:
    from msgspec.structs import replace

    from harness.gate.baselines.baseline import BASELINES, find
    from harness.gate.compare import compare

    rules, new = gating.rules_from(args.suite, args.run), gating.open_side(args.run)
    name = _suite_of(args)
    if args.base:
        return compare(gating.open_side(args.base), new, rules, name, "runs")
    baseline = find(args.baselines or BASELINES, name, new.side)
    report = compare(baseline.measured(), new, rules, name, "baseline")
    return replace(report, notes=[*report.notes, *gating.baseline_notes(baseline, rules)])


def _suite_of(args: argparse.Namespace) -> str:
    """The suite's name, which has to be the run's. Raises UsageError for a run of another suite."""
    from harness.records.store import RunFolder

    name = RunFolder.open(args.run).header.name
    if name != args.suite.stem:
        raise UsageError(f"is a run of the suite {name!r}, not of {args.suite.stem!r}", f"--run {args.run}")
    return name


def _live(args: argparse.Namespace) -> GateReport:
    """Both versions measured now; nothing that is stored answers for either."""
    from harness.cli.planning import plan_from
    from harness.gate.live.against import gate_against
    from harness.run.progress import open_progress

    planning = plan_from(args)
    return gate_against(planning.plan, planning.registry, args.against, open_progress, narrowed=bool(args.only))
