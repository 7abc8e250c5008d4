"""`harness plan SUITE`: what would run here, why the rest cannot, how long it takes. Runs nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from harness.cli import flags, output
from harness.errors import EXIT_OK

if TYPE_CHECKING:
    from harness.run.plan import Plan, PlannedTable

EXAMPLES = """  harness plan suites/longctx.yaml
  harness plan suites/longctx.yaml --checkpoint v32-layer --only form=mqa
  harness plan suites/throughput.yaml --device cuda --format markdown"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "plan", "say which cells would run, why others cannot, and how long", EXAMPLES)
    flags.add_suite_flags(parser)
    flags.add_format_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.cli.planning import plan_from

    plan, _ = plan_from(args)
    output.emit(render(plan, args.format))
    return EXIT_OK


def render(plan: Plan, style: str) -> str:
    """The plan as text in one of the formats."""
    headers = ("table", "workload", *_axes(plan), "time", "reasons")
    rows = [row for table in plan.tables for row in _rows(plan, table)]
    body = output.format_rows(headers, rows, style, wrap=60)
    return f"{_head(plan)}\n\n{body}\n\n{_foot(plan)}" if style in ("terminal", "markdown") else body


def _axes(plan: Plan) -> list[str]:
    """Axes on which any two variants differ."""
    variants = [planned.cell.variant for planned in plan.cells]
    return [axis for axis, first in variants[0].items() if any(getattr(one, axis) != first for one in variants)]


def _rows(plan: Plan, table: PlannedTable) -> list[tuple[str, ...]]:
    from harness.run.progress import duration

    rows = []
    for planned in table.cells:
        variant = planned.cell.variant
        time = duration(planned.seconds) + ("" if planned.stored else " ?") if planned.runs else "-"
        names = [getattr(variant, axis) for axis in _axes(plan)]
        rows.append((table.name, planned.workload.label, *names, time, "; ".join(planned.reasons)))
    return rows


def _head(plan: Plan) -> str:
    facts = plan.facts
    device = facts.gpu_name if facts.device == "cuda" else facts.cpu_model
    return f"{plan.suite.suite.question}\non {device} ({facts.device}), {plan.threads} threads, seed {plan.seed}"


def _foot(plan: Plan) -> str:
    from harness.run import machine
    from harness.run.progress import duration

    running = sum(planned.runs for planned in plan.cells)
    guessed = sum(planned.runs and not planned.stored for planned in plan.cells)
    lines = [f"{running} of {len(plan.cells)} cells would run, about {duration(plan.seconds)} with loading"]
    if guessed:
        lines.append(f"? estimated from operations and bytes ({guessed} cells); the others from stored runs")
    available = machine.available_memory_bytes()
    for table in plan.tables:
        turns = "take turns" if table.fits_together(available) else "run one after another (they do not fit together)"
        lines.append(
            f"{table.name}: {len(table.variants)} workers need about {_gib(table.bytes_together)} together, "
            f"{_gib(available)} are free: they {turns}"
        )
    return "\n".join(lines)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
