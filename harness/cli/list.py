"""`harness list`: every option of every axis, and the plugin that it comes from."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli import flags, output
from harness.errors import EXIT_OK

EXAMPLES = """  harness list
  harness list --axis selector
  harness list --plugin my_backend.py"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "list", "list axes and options, and where each comes from", EXAMPLES)
    parser.add_argument("--axis", metavar="AXIS", help="only this axis")
    flags.add_plugin_flag(parser)
    flags.add_format_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.contract.registry import Registry
    from harness.errors import unknown
    from harness.suite.variant import AXES

    if args.axis is not None and args.axis not in AXES:
        raise unknown("axis", args.axis, AXES, "--axis")
    registry = Registry(args.plugins)
    rows = [
        (axis, option.name, option.summary, registry.source(axis, option.name))
        for axis in AXES
        if args.axis in (None, axis)
        for option in registry.options(axis)
    ]
    output.emit(output.format_rows(("axis", "option", "what it is", "from"), rows, args.format))
    return EXIT_OK
