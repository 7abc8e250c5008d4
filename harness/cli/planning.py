"""From parsed flags to a plan: what `run` and `plan` have in common."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.contract.registry import Registry
    from harness.run.plan import Plan


def plan_from(args: argparse.Namespace) -> tuple[Plan, Registry]:
    """Load the suite with the flags' changes, then plan it here, by the names of the registry. Raises UsageError."""
    from harness.contract.registry import Registry
    from harness.run import machine
    from harness.run.plan import make_plan
    from harness.run.suite_run import former_seconds
    from harness.suite.load import Changes, load_suite

    changes = Changes(args.settings, args.checkpoint, args.device, args.threads, args.seed, args.limit)
    suite = load_suite(args.suite, changes)
    plugins = list(dict.fromkeys([*suite.plugins, *(absolute(plugin) for plugin in args.plugins)]))
    registry = Registry(plugins)
    facts = machine.collect(suite.suite.device or "cpu")
    return make_plan(suite, registry, facts, plugins, args.only, former_seconds(args.out, suite.name)), registry


def absolute(plugin: str) -> str:
    """A plugin file by its absolute path, so that workers find it; a module name as it is."""
    return os.path.abspath(plugin) if plugin.endswith(".py") else plugin


def choices(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line decided, for the stored run."""
    given = {"set": args.settings, "only": args.only, "checkpoint": args.checkpoint, "limit": args.limit}
    return {name: value for name, value in given.items() if value}
