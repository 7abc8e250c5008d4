"""`harness train RECIPE`: train a small checkpoint on the interpreter's own standard library."""

from __future__ import annotations

from typing import Any

from harness.cli import flags
from harness.train import command

EXAMPLES = """  harness train suites/recipes/reference.yaml
  harness train suites/recipes/reference.yaml --out checkpoints/mine"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "train", "train a small checkpoint from a recipe", EXAMPLES)
    command.add_arguments(parser)
    parser.set_defaults(main=command.run)
