"""`harness train RECIPE`: train a small checkpoint on the interpreter's own standard library."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli import flags

EXAMPLES = """  harness train suites/recipes/first.yaml --out checkpoints/first"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "train", "train a small checkpoint from a recipe", EXAMPLES)
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="recipe file (YAML)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder of the checkpoint (default: the recipe's)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="settings", help="change a key")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of weights and batches")
    flags.add_device_flags(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.train.command import main as train

    return train(args)
