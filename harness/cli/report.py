"""`harness report RUN...`: the tables of stored runs again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli import flags, output
from harness.errors import EXIT_OK

EXAMPLES = """  harness report results/quickstart-20260101T000000Z
  harness report results/longctx-* --format markdown > tables.md
  harness report results/cpu/peers --table trained --brief"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "report", "print the tables of stored runs", EXAMPLES)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a stored run")
    parser.add_argument(
        "--table", metavar="NAME", action="append", default=[], dest="tables", help="only this table (repeatable)"
    )
    parser.add_argument(
        "--brief", action="store_true", help="leave out what explains the answer: memory, tails, equivalence"
    )
    flags.add_plugin_flag(parser)
    flags.add_format_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.contract.registry import Registry
    from harness.records.store import RunFolder
    from harness.report import render

    runs = [RunFolder.open(path) for path in args.runs]
    columns = Registry(args.plugins).columns()
    output.emit(render(runs, args.format, output.width(), columns, args.tables, args.brief))
    return EXIT_OK
