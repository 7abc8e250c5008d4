"""`harness check`: the conformance kit over registered options."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli import flags

EXAMPLES = """  harness check
  harness check --option kernels=mine --plugin my_backend.py"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "check", "run the conformance kit over registered options", EXAMPLES)
    parser.add_argument(
        "--option",
        metavar="AXIS=NAME",
        action="append",
        default=[],
        dest="options",
        help="check only this option (repeatable; default: all)",
    )
    flags.add_device_flags(parser)
    flags.add_plugin_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.check.command import main as check
    from harness.run.machine import collect

    return check(args, collect(args.device or "cpu"))
