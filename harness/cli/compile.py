"""`harness compile`: kernels compiled ahead of time, without a device, and what became of each."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import flags, output
from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UsageError

if TYPE_CHECKING:
    from harness.cli.planning import Planning
    from harness.records.store import RunFolder
    from harness.suite.load import LoadedSuite

EXAMPLES = """  harness compile                                every kernel of kernels=triton for all targets
  harness compile --target sm_90 --operator mqa_attention
  harness compile --plugin my_kernels.py --kernels mine
  harness compile suites/kernels_compile.yaml    the cells of a suite, which `harness gate` can judge"""

CHOICES = (
    ("kernels", "NAME", "kernel set (default: triton)"),
    ("target", "SM", "such as sm_90 (default: all)"),
    ("operator", "SLOT", "only this slot of the operator table (default: all)"),
)
"""Flags that make a suite, where none is given."""

TIMEOUT = 3600.0
"""Seconds for all builds of a target on a busy machine."""

REASON_WIDTH = 36
"""Of the last column, so that a line of a table fits a hundred columns."""


def add_parser(commands: Any) -> None:
    """Register the command."""
    summary = "compile kernels ahead of time and show what became of them"
    parser = flags.subcommand(commands, "compile", summary, EXAMPLES)
    parser.add_argument(
        "suite", metavar="SUITE", type=Path, nargs="?", help="suite file with workloads of kind compile"
    )
    for name, metavar, text in CHOICES:
        parser.add_argument(
            f"--{name}",
            metavar=metavar,
            action="append",
            default=[],
            help=f"{text}; repeatable, and only without SUITE",
        )
    parser.add_argument(
        "--threads", metavar="N", type=flags.positive, help="processes that compile (default: all cores)"
    )
    parser.add_argument("--fresh", action="store_true", help="compile everything again, whatever is stored")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("results"), help="folder of stored runs (default: results)"
    )
    flags.add_plugin_flag(parser)
    flags.add_format_flag(parser)
    parser.set_defaults(main=main, only=[], settings=[], checkpoint=None, limit=None)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.cli.planning import choices, plan_of
    from harness.run.progress import open_progress
    from harness.run.suite_run import create_folder, run_plan

    planning = plan_of(_suite(args), args)
    _require_compiling(planning)
    store = create_folder(planning.plan, args.out, choices(args))
    finished = run_plan(planning.plan, planning.identities, store, open_progress(planning.plan.seconds))
    _show(store, args.format)
    if not finished:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(record.status.fails_the_run for record in store.records()) else EXIT_OK


def _suite(args: argparse.Namespace) -> LoadedSuite:
    """The suite that was named, or one made of the flags."""
    from harness.suite.document import Document
    from harness.suite.load import Changes, load_suite, suite_of

    given = [f"--{name}" for name, _, _ in CHOICES if getattr(args, name)]
    changes = Changes(device="cpu", threads=args.threads)
    if args.suite is None:
        return suite_of(Document("harness compile", _document(args), {}), Path("compile.yaml"), changes)
    if given:
        raise UsageError(f"{', '.join(given)} and a suite: the suite says what is compiled", str(args.suite))
    return load_suite(args.suite, changes)


def _document(args: argparse.Namespace) -> dict[str, Any]:
    """A table for every kernel set, a cell for every target and operator."""
    from harness.compile.target import TARGETS

    workload = {"kind": "compile", "target": args.target or list(TARGETS)}
    if args.operator:
        workload["operator"] = args.operator
    return {
        "question": "What becomes of every kernel on every target?",
        "sampling": {"timeout": TIMEOUT},
        "tables": {
            kernels: {
                "question": f"What becomes of the kernels of {kernels}?",
                "checkpoint": "v32-layer",
                "baseline": {"kernels": kernels},
                "variants": [{"kernels": kernels}],
                "workloads": [workload],
            }
            for kernels in args.kernels or ["triton"]
        },
    }


def _require_compiling(planning: Planning) -> None:
    others = [table for table in planning.plan.tables if not table.compiles]
    if others:
        where = planning.plan.suite.where("tables", others[0].name)
        raise UsageError(f"table {others[0].name!r} measures and does not compile; `harness run` measures", where)


def _show(store: RunFolder, style: str) -> None:
    """Build by build, and at the end what did not compile."""
    from harness.report.builds import HEADERS, rows, title

    records = store.records()
    tables = [(title(record), rows(store.samples(record))) for record in records if record.samples_file]
    if style in ("terminal", "markdown"):
        shown = [f"{name}\n\n{output.format_rows(HEADERS, body, style, REASON_WIDTH)}" for name, body in tables]
        shown += [
            f"{record.status.value}: {record.cell}: {'; '.join(record.reasons)}" for record in records if record.reasons
        ]
        output.emit("\n\n".join(shown))
    else:
        output.emit(output.format_rows(HEADERS, [row for _, body in tables for row in body], style))
    print(f"stored in {store.path}", file=sys.stderr)
