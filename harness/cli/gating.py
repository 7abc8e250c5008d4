"""What `gate` and `compare` have in common: how a report is shown, written and turned into an exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import output
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.gate.baselines.baseline import Baseline
    from harness.gate.measured import Measured
    from harness.gate.rules import Rules
    from harness.gate.verdict import GateReport

FORMATS = ("terminal", "markdown", "json", "junit", "github")
EXIT_CODES = """exit codes:
  0  every rule is kept
  1  a regression that no waiver covers
  2  bad input, or a gate that measured nothing: no cell compared, a rule that matched nothing, a metric missing;
     outranks the others
  3  no regression, but something could not be decided or compared, or a control showed the machine to be unfit;
     --inconclusive pass|fail makes it 0 or 1

"""


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    """How the report is shown, and what an open question is worth."""
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="what is printed (default: terminal)")
    parser.add_argument("--all", action="store_true", help="list what passes too")
    for name, what in (("junit", "JUnit XML"), ("markdown", "the markdown of --format markdown"),
                       ("json", "the JSON document (schema: results/schema/gate.json)")):  # fmt: skip
        parser.add_argument(f"--{name}", metavar="FILE", type=Path, help=f"also write {what}")
    parser.add_argument("--github", action="store_true", help="also print GitHub annotations")
    parser.add_argument(
        "--inconclusive", choices=("pass", "fail"), help="exit with 0 or 1 in place of 3 when something is undecided"
    )
    parser.add_argument(
        "--waivers", metavar="FILE", type=Path, help="accepted regressions (default: waivers.yaml beside the suite)"
    )


def finish(report: GateReport, args: argparse.Namespace, suite: Path | None) -> int:
    """Apply waivers and policy, print and write the report; returns the exit code. Raises UsageError."""
    from msgspec.structs import replace

    from harness.gate.output import render

    report = replace(_waived(report, args.waivers, suite), inconclusive=args.inconclusive)
    for name in ("junit", "markdown", "json"):
        if path := getattr(args, name):
            _write(path, render(report, name), f"--{name}")
    output.emit(render(report, args.format, args.all).rstrip("\n"))
    if args.github and (annotations := render(report, "github")):
        output.emit(annotations)
    return report.exit_code


def open_side(path: Path) -> Measured:
    """A stored run, or an accepted baseline, as one side of a comparison."""
    from harness.gate.baselines.baseline import ACCEPTANCES, Baseline
    from harness.gate.measured import open_run
    from harness.records.store import RunFolder

    return Baseline.open(path).measured() if (path / ACCEPTANCES).exists() else open_run(RunFolder.open(path))


def rules_from(suite: Path | None, run: Path) -> Rules:
    """The rules of a suite file, or else of the suite as the run stored it."""
    from harness.gate.rules import Rules
    from harness.records.store import RunFolder
    from harness.suite.load import load_suite

    if suite is not None:
        return Rules.of_suite(load_suite(suite))
    return Rules.of_stored(RunFolder.open(run).header.suite, str(run))


def baseline_notes(baseline: Baseline, rules: Rules) -> list[str]:
    """Its age, and what has crept since the first acceptance."""
    from datetime import date

    from harness.gate.baselines.baseline import age_notes
    from harness.gate.baselines.creep import lines

    return [*age_notes(baseline, rules.gate.baseline_days, date.today()), *lines(baseline, rules)]


def _waived(report: GateReport, named: Path | None, suite: Path | None) -> GateReport:
    """The report with the waivers of the file that was named, or of the one beside the suite when there is one."""
    from datetime import date

    from harness.gate.baselines.waivers import apply_waivers, read_waivers

    beside = suite.parent / "waivers.yaml" if suite else None
    path = named or (beside if beside and beside.exists() else None)
    return apply_waivers(report, read_waivers(path), date.today()) if path else report


def _write(path: Path, text: str, flag: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", f"{flag} {path}") from None
