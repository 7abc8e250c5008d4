"""`harness check` behind its flags: which options, on which machine, what is printed, which exit code."""

from __future__ import annotations

import argparse
import sys

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
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    registry = Registry(args.plugins)
    options = [_named(text, registry) for text in args.options] or all_options(registry)
    with tqdm(file=sys.stderr, unit="variant", leave=False) as bar:

        def progress(done: int, total: int, text: str) -> None:
            bar.total = total
            bar.set_description(text, refresh=False)
            bar.update(done - bar.n)

        results = run_checks(Workbench(registry, facts), options, progress)
    print(render(results, options))
    return EXIT_FAILED if failed(results) else EXIT_OK


def _named(text: str, registry: Registry) -> OptionName:
    axis, equals, name = text.partition("=")
    if not equals:
        raise UsageError(f"--option wants AXIS=NAME, such as kernels=eager; given: {text!r}")
    registry.option(axis, name, "--option")
    return OptionName(axis, name)
