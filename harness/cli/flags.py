"""Flags that several commands share: one place, one wording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FORMATS = ("terminal", "markdown", "csv", "json")


def subcommand(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A subcommand's parser: `summary` for the overview, `examples` below its own help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_suite_flags(parser: argparse.ArgumentParser) -> None:
    """SUITE and everything that changes it without editing."""
    parser.add_argument("suite", metavar="SUITE", type=Path, help="suite file (YAML)")
    parser.add_argument(
        "--checkpoint", metavar="DIR|PRESET", help="measure this model in every table instead of the suite's"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change a key of the suite, such as sampling.rounds=5 (a table's own value wins) or "
        "tables.NAME.workloads.0.length=2048 (repeatable)",
    )
    parser.add_argument(
        "--only",
        metavar="AXIS=NAME",
        action="append",
        default=[],
        help="run only these variants (repeatable: one axis adds up, axes narrow); table=NAME picks tables; "
        "a table's baseline always stays",
    )
    add_device_flags(parser)
    parser.add_argument("--limit", metavar="N", type=positive, help="documents per accuracy task")
    parser.add_argument("--seed", metavar="N", type=int, help="seed of prompts, order and preset weights")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("results"), help="folder of stored runs (default: results)"
    )
    add_plugin_flag(parser)


def add_fresh_flag(parser: argparse.ArgumentParser) -> None:
    """Whether stored records may answer."""
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="measure every cell again; without it, cells that a run below --out has measured under the same weights, "
        "code, machine, packages and settings are taken over from there",
    )


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Where and with how much of the machine."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="device to run on (default: the suite's, else cpu)")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads per worker (default: all cores)")


def add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    """Plugins besides the installed ones."""
    parser.add_argument(
        "--plugin",
        metavar="FILE_OR_MODULE",
        action="append",
        default=[],
        dest="plugins",
        help="load a plugin: a .py file or an importable module (repeatable)",
    )


def add_format_flag(parser: argparse.ArgumentParser) -> None:
    """How tables are printed."""
    parser.add_argument(
        "--format", choices=FORMATS, default="terminal", help="how tables are printed (default: terminal)"
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """The result document."""
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="also write the result document (schema: results/schema/results.json)"
    )


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
