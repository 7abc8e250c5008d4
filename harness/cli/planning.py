"""From parsed flags to a plan: what `run` and `plan` have in common."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.contract.registry import Registry
    from harness.run.former import FormerRuns, Identities
    from harness.run.plan import Plan
    from harness.suite.load import LoadedSuite


@dataclass(frozen=True)
class Planning:
    """A plan, and what it was made of."""

    plan: Plan
    registry: Registry
    identities: Identities
    former: FormerRuns

    def changes(self) -> list[str]:
        """Why cells that were measured before are measured again; nothing when that was asked for."""
        from harness.run.former import changes

        return changes(self.plan, self.former, self.identities)


def plan_from(args: argparse.Namespace) -> Planning:
    """Load the suite with the flags' changes, plan it here, and see what stored runs answer for. Raises UsageError."""
    from harness.suite.load import Changes, load_suite

    changes = Changes(args.settings, args.checkpoint, args.device, args.threads, args.seed, args.limit)
    return plan_of(load_suite(args.suite, changes), args)


def plan_of(suite: LoadedSuite, args: argparse.Namespace) -> Planning:
    """Plan a loaded suite here by the flags `plugins`, `only`, `out` and `fresh`. Raises UsageError."""
    from harness.contract.registry import Registry
    from harness.gate.rules import Rules
    from harness.run import machine
    from harness.run.former import FormerRuns, Identities, take_over
    from harness.run.plan import make_plan

    if suite.suite.gate is not None:
        Rules.of_suite(suite)  # a gate that cannot be meant is found before the run, not after it
    plugins = list(dict.fromkeys([*suite.plugins, *(absolute(plugin) for plugin in args.plugins)]))
    registry = Registry(plugins)
    facts = machine.collect(suite.suite.device or "cpu")
    former = FormerRuns.below(args.out, suite.name)
    plan = make_plan(suite, registry, facts, plugins, args.only, former.seconds())
    identities = Identities(plan, registry)
    if args.fresh:
        return Planning(replace(plan, fresh=True), registry, identities, FormerRuns([]))
    return Planning(take_over(plan, former, identities), registry, identities, former)


def absolute(plugin: str) -> str:
    """A plugin file by its absolute path, so that workers find it; a module name as it is."""
    return os.path.abspath(plugin) if plugin.endswith(".py") else plugin


def choices(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line decided, for the stored run."""
    given = {"set": args.settings, "only": args.only, "checkpoint": args.checkpoint, "limit": args.limit}
    return {name: value for name, value in given.items() if value}
