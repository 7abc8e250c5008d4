"""`harness doctor`: this machine, what is installed, and why an option cannot run here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from harness.cli import flags, output
from harness.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from harness.contract.config import ModelConfig
    from harness.contract.facts import MachineFacts
    from harness.contract.registry import Registry

DEFAULT_CHECKPOINT = "v32-layer"
EXAMPLES = """  harness doctor
  harness doctor --device cuda --checkpoint /models/my-v32"""


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser = flags.subcommand(commands, "doctor", "show machine, installed packages and unavailable options", EXAMPLES)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="device to ask for (default: cuda when there is a GPU)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR|PRESET",
        default=DEFAULT_CHECKPOINT,
        help=f"model to ask for (default: {DEFAULT_CHECKPOINT})",
    )
    flags.add_plugin_flag(parser)
    flags.add_format_flag(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from harness.contract.registry import Registry
    from harness.model.presets import resolve
    from harness.run import machine

    facts = machine.collect(args.device or ("cuda" if machine.gpu_facts() else "cpu"))
    config = resolve(args.checkpoint, f"--checkpoint {args.checkpoint}")
    options = _option_rows(Registry(args.plugins), config, facts)
    tables = [
        output.format_rows(("fact", "value"), _machine_rows(facts), args.format),
        output.format_rows(("axis", "option", "here", "reasons"), options, args.format, wrap=80),
    ]
    if args.format == "json":
        output.emit(f'{{"machine": {tables[0]},\n"options": {tables[1]}}}')
    else:
        output.emit("\n\n".join(tables))
    return EXIT_OK


def _machine_rows(facts: MachineFacts) -> list[tuple[str, str]]:
    import platform

    from harness.run import machine

    gpu = facts.gpu_name or "none"
    if facts.gpu_memory_bytes and facts.compute_capability:
        gpu += f", {facts.gpu_memory_bytes / 2**30:.0f} GiB, sm_{''.join(map(str, facts.compute_capability))}"
    rows = [
        ("system", f"{facts.system} {facts.architecture}"),
        ("cpu", f"{facts.cpu_model}, {facts.cpu_count} usable"),
        (
            "memory",
            f"{facts.memory_bytes / 2**30:.1f} GiB, {machine.available_memory_bytes('cpu') / 2**30:.1f} GiB free",
        ),
        ("load", " ".join(map(str, machine.load_average()))),
        ("gpu", gpu),
        ("python", platform.python_version()),
    ]
    return rows + [(name, facts.packages.get(name, "not installed")) for name in machine.PACKAGES]


def _option_rows(registry: Registry, config: ModelConfig, facts: MachineFacts) -> list[tuple[str, str, str, str]]:
    from harness.suite.variant import AXES

    rows = []
    for axis in AXES:
        for option in registry.options(axis):
            reasons = _reasons(registry, axis, option.name, config, facts)
            rows.append((axis, option.name, "no" if reasons else "yes", "; ".join(reasons)))
    return rows


def _reasons(registry: Registry, axis: str, name: str, config: ModelConfig, facts: MachineFacts) -> list[str]:
    """Every reason against an option, asked in its engine's default variant (native's, for the other axes)."""
    from harness.contract.options import Query

    try:
        variant = registry.variant({axis: name})
    except UsageError as error:
        return [str(error)]
    return list(registry.option(axis, name).unsupported(Query(variant, config, facts)))
