"""`harness plan SUITE`: what would run here, why the rest cannot, how long it takes. Runs nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from harness.cli import detecting, flags, output
from harness.errors import EXIT_OK

if TYPE_CHECKING:
    from harness.cli.planning import Planning
    from harness.run.plan import Plan, PlannedCell, PlannedTable

EXAMPLES = """  harness plan suites/longctx.yaml
  harness plan suites/longctx.yaml --checkpoint v32-layer --only form=mqa
  harness plan suites/throughput.yaml --device cuda --format markdown
  harness plan suites/quickstart.yaml --detect 5% --detect 1pt"""

STORED = "stored"
"""Shown instead of a time for a cell that a stored record answers for."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "plan", "say which cells would run, why others cannot, and how long", EXAMPLES)
    flags.add_suite_flags(parser)
    flags.add_fresh_flag(parser)
    flags.add_format_flag(parser)
    detecting.add_detect_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.cli.planning import plan_from

    planning = plan_from(args)
    output.emit(render_needs(planning, args.detect, args.format) if args.detect else render(planning.plan, args.format))
    return EXIT_OK


def render(plan: Plan, style: str) -> str:
    """The plan as text in one of the formats; reasons as numbered notes where people read."""
    headers = ("table", "workload", *_axes(plan), "time", "reasons")
    rows = [row for table in plan.tables for row in _rows(plan, table)]
    if style not in ("terminal", "markdown"):
        return output.format_rows(headers, rows, style)
    notes = {
        reasons: f"[{number}]" for number, reasons in enumerate(dict.fromkeys(row[-1] for row in rows if row[-1]), 1)
    }
    noted = [(*row[:-2], notes.get(row[-1], row[-2])) for row in rows]
    body = output.format_rows(headers[:-1], noted, style)
    below = "\n".join(f"{mark} cannot run here: {reasons}" for reasons, mark in notes.items())
    return "\n\n".join(part for part in (_head(plan), body, below, _foot(plan)) if part)


def render_needs(planning: Planning, effects: list[str], style: str) -> str:
    """What each cell needs before such effects can be seen, as text in one of the formats. Raises UsageError."""
    plan, effect = planning.plan, detecting.effect_from(effects)
    found = list(detecting.answers(planning, effect))
    headers = ("table", "workload", *_axes(plan), *detecting.HEADERS)
    rows = [(*_names(plan, answer.table, answer.planned), *answer.texts) for answer in found]
    body = output.format_rows(headers, rows, style)
    return body if style not in ("terminal", "markdown") else f"{body}\n\n{detecting.foot(found, effect)}"


def _names(plan: Plan, table: PlannedTable, planned: PlannedCell) -> tuple[str, ...]:
    return table.name, planned.workload.label, *(getattr(planned.cell.variant, axis) for axis in _axes(plan))


def _axes(plan: Plan) -> list[str]:
    from harness.suite.variant import differing_axes

    return differing_axes([planned.cell.variant for planned in plan.cells])


def _rows(plan: Plan, table: PlannedTable) -> list[tuple[str, ...]]:
    """Table, workload, differing axes, time or nothing, reasons."""
    from harness.run.progress import duration

    rows = []
    for planned in table.cells:
        estimated = duration(planned.seconds) + ("" if planned.stored else " ?")
        time = STORED if planned.former else estimated if planned.runs else ""
        rows.append((*_names(plan, table, planned), time, "; ".join(planned.reasons)))
    return rows


def _head(plan: Plan) -> str:
    facts = plan.facts
    device = facts.gpu_name if facts.device == "cuda" else facts.cpu_model
    threads = f"{plan.threads} thread{'s' if plan.threads > 1 else ''}"
    return f"{plan.suite.suite.question}\non {device} ({facts.device}), {threads}, seed {plan.seed}"


def _foot(plan: Plan) -> str:
    from harness.run import machine
    from harness.run.progress import duration

    running = [planned for planned in plan.cells if planned.measured]
    lines = [f"{len(running)} of {len(plan.cells)} cells would run, about {duration(plan.seconds)} with loading"]
    if any(planned.former for planned in plan.cells):
        lines.append(f"{STORED}: measured before under the same conditions, and taken over; not with --fresh")
    guessed = sum(not planned.stored for planned in running)
    if guessed:
        lines.append(f"? estimated from operations and bytes ({guessed} cells); times without it come from stored runs")
    available = machine.available_memory_bytes(plan.facts.device)
    return "\n".join(lines + [_memory(table, available) for table in plan.tables if table.variants])


def _memory(table: PlannedTable, available: int) -> str:
    turns = (
        "take turns" if table.fits_together(available) else "run one after another, because they do not fit together"
    )
    workers = f"{len(table.variants)} worker{'s' if len(table.variants) > 1 else ''}"
    return f"{table.name}: {workers}, about {_gib(table.bytes_together)} of {_gib(available)} free: they {turns}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
