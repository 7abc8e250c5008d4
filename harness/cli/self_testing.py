"""`harness gate SUITE --self-test`: how often this gate cries wolf here, and what it catches."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from harness.cli import output
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.gate.quality.selftest import Tried
    from harness.gate.verdict import Finding

HEADERS = ("planted", "to be seen", "caught", "open", "missed", "other answers", "open or broken", "false alarms",
           "seconds")  # fmt: skip
STYLES = ("terminal", "markdown", "json")
UNCHANGED_RUNS = 3
SHOWN = 10
"""Wrong answers that are listed for each plant."""


def main(args: argparse.Namespace) -> int:
    """Run the self-test and print it as it goes; returns the exit code. Raises UsageError."""
    from harness.cli.planning import plan_from
    from harness.gate.quality.selftest import exit_code, of_baselines, self_test
    from harness.run.progress import open_progress

    if args.format not in STYLES:
        raise UsageError(f"a self-test has no such form; allowed: {', '.join(STYLES)}", f"--format {args.format}")
    planning = plan_from(args)
    plan = planning.plan if args.only else of_baselines(planning.plan)
    tried = []
    for one in self_test(plan, planning.registry, open_progress, args.times or UNCHANGED_RUNS):
        tried.append(one)
        print(f"{one.plant.name}: {'as it should be' if one.right else 'see below'}", file=sys.stderr)
    output.emit(text(tried, args.format))
    return exit_code(tried)


def text(tried: list[Tried], style: str) -> str:
    """The table, and below it every answer that was not right."""
    body = output.format_rows(HEADERS, [_row(one) for one in tried], style)
    wrong = [line for one in tried for line in _wrong(one)]
    if style == "json":
        return body
    verdict = "every answer was right" if not wrong else "not every answer was right:"
    return "\n\n".join([body, "\n".join([verdict, *wrong])])


def _row(one: Tried) -> tuple[str, ...]:
    from harness.gate.verdict import Verdict

    caught, missed = one.hit_as(Verdict.REGRESSION), one.hit_as(Verdict.PASS, Verdict.IMPROVEMENT)
    passed = sum(finding.verdict == Verdict.PASS for finding in one.spared)
    seconds = sum(finding.seconds for finding in one.report.findings if finding.timed)
    hit = (len(one.hit), caught, len(one.hit) - caught - missed, missed)
    spared = (len(one.spared), len(one.spared) - passed - len(one.alarms), len(one.alarms))
    return one.plant.name, *(str(count) for count in (*hit, *spared)), f"{seconds:.0f}"


def _wrong(one: Tried) -> list[str]:
    from harness.gate.verdict import Verdict

    wrong = [finding for finding in one.hit if finding.verdict != Verdict.REGRESSION]
    wrong += [finding for finding in one.spared if finding.verdict != Verdict.PASS]
    lines = [f"- {one.plant.name}: {_said(finding)}" for finding in wrong[:SHOWN]]
    lines += [f"- {one.plant.name}: {problem}" for problem in one.report.problems]
    return lines + ([f"- {one.plant.name}: {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else [])


def _said(finding: Finding) -> str:
    changed = f", {100 * finding.worse_by:+.1f}%" if finding.scale == "ratio" and finding.worse_by is not None else ""
    reasons = f" ({'; '.join(finding.reasons)})" if finding.reasons else ""
    return f"{finding.cell} {finding.metric}: {finding.verdict.value}{changed}{reasons}"
