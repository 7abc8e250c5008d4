"""`harness check` behind its flags: which options, on which machine, what is printed, which exit code."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from harness.check.kit import run_checks
from harness.check.subject import Workbench
from harness.check.subjects import OptionName, all_options
from harness.check.table import failed, render
from harness.contract.facts import MachineFacts
from harness.contract.registry import Registry
from harness.errors import EXIT_FAILED, EXIT_OK, UsageError


def main(args: argparse.Namespace, facts: MachineFacts) -> int:
    """Run the kit over `args.options` (all when empty), with `args.plugins` loaded; the table goes to stdout.

    Returns 0 when no check fails, else 1. Raises UsageError for unknown options.
    """
    registry = Registry(args.plugins)
    options = [_named(text, registry) for text in args.options] or all_options(registry)
    missing = _missing_environment(options, registry, facts)
    if missing:
        return _check_in(missing, args)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    with tqdm(file=sys.stderr, unit="variant", leave=False) as bar:

        def progress(done: int, total: int, text: str) -> None:
            bar.total = total
            bar.set_description(text, refresh=False)
            bar.update(done - bar.n)

        results = run_checks(Workbench(registry, facts), options, progress)
    print(render(results, options))
    return EXIT_FAILED if failed(results) else EXIT_OK


def _missing_environment(options: Sequence[OptionName], registry: Registry, facts: MachineFacts) -> dict[str, str]:
    """Variables that some of the options need (see `Option.environment`) and this process was not started with."""
    needed: dict[str, str] = {}
    for option in options:
        needed.update(registry.option(option.axis, option.name).environment(facts))
    return {variable: value for variable, value in needed.items() if os.environ.get(variable) != value}


def _check_in(environment: Mapping[str, str], args: argparse.Namespace) -> int:
    """The same command in a process with these variables, and its exit code: libraries read them at import."""
    command = [sys.executable, "-m", "harness.cli.main", "check", "--device", args.device or "cpu"]
    command += ["--threads", str(args.threads)] if args.threads else []
    command += [f"--option={text}" for text in args.options] + [f"--plugin={text}" for text in args.plugins]
    path = os.pathsep.join(place for place in sys.path if place)
    return subprocess.run(command, env={**os.environ, **environment, "PYTHONPATH": path}, check=False).returncode


def _named(text: str, registry: Registry) -> OptionName:
    axis, equals, name = text.partition("=")
    if not equals:
        raise UsageError(f"--option wants AXIS=NAME, such as kernels=eager; given: {text!r}")
    registry.option(axis, name, "--option")
    return OptionName(axis, name)
