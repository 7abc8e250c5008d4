"""`harness gate SUITE --against REF`: two code versions side by side, started and cleared away.

The base is a temporary worktree of the ref. Its workers run with that root (and its plugins, and the user's own
modules as they are there) first on the path; every worker refuses to run when a package came from elsewhere, and its
records say where they came from. Weights, suite and settings are the working tree's on both sides, so that
code is the only difference. A package that is installed, rather than part of the repository, is the same on both sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from harness.contract.registry import Registry
from harness.gate.live.gate import LiveGate
from harness.gate.live.side import LiveSide, Version
from harness.gate.live.stage import Stage
from harness.gate.live.worktree import Repository, Worktree
from harness.gate.rules import Rules
from harness.gate.verdict import GateReport
from harness.run import machine
from harness.run.client import package_root, python_path
from harness.run.former import Identities
from harness.run.interrupts import interruptible
from harness.run.ledger import Ledger
from harness.run.nursery import Nursery
from harness.run.plan import Plan
from harness.run.progress import Progress

WORKING_TREE = "working tree"
VISITS_EXPECTED = 3
"""Visits that an unchanged cell takes, mostly; the progress bar goes by them."""


def gate_against(
    plan: Plan, registry: Registry, ref: str, progress: Callable[[float], Progress], narrowed: bool = False
) -> GateReport:
    """Measure the working tree and `ref` in turn, now, and judge them by the suite's rules.

    `progress` opens one that counts so many steps. `narrowed`: the plan holds a part of the suite on purpose. Raises
    UsageError for a suite without rules, an unknown ref, or input that the working tree's workers refuse;
    KeyboardInterrupt after Ctrl-C, with everything cleared away.
    """
    Rules.of_suite(plan.suite)
    repository = Repository.around(plan.suite.path.resolve())
    commit = repository.commit(ref)
    with tempfile.TemporaryDirectory(prefix="harness-gate-") as scratch, repository.worktree(commit) as tree:
        stage = Stage(progress(VISITS_EXPECTED * sum(planned.runs for planned in plan.cells)))
        live = _Start(one_thread(plan), registry, stage, tree, ref, Path(scratch)).gate(narrowed)
        try:
            with interruptible(live.close):
                report = live.report()
        finally:
            live.close()
            stage.close()
    notes = [*_same_on_both(plan, tree), *report.notes]
    return msgspec.structs.replace(report, notes=notes)


def one_thread(plan: Plan) -> Plan:
    """The plan with one thread a worker on a CPU, unless the suite says how many: neighbours hurt many far more."""
    given = plan.suite.suite.threads is not None or plan.facts.device != "cpu"
    return plan if given else replace(plan, threads=1)


@dataclass(frozen=True)
class _Start:
    """What the two sides are made of."""

    plan: Plan
    registry: Registry
    stage: Stage
    tree: Worktree
    ref: str
    scratch: Path

    def gate(self, narrowed: bool) -> LiveGate:
        section = self.plan.suite.suite.gate
        assert section is not None, "rules were read from it before"
        ledger = Ledger()
        base, new = self._side(self._base(), ledger), self._side(self._new(), ledger)
        return LiveGate(base, new, lambda: Rules.of_suite(self.plan.suite), section, narrowed, stage=self.stage)

    def _new(self) -> Version:
        root = self.tree.repository.root
        path, plugins = python_path(), self.plan.plugins
        return Version(WORKING_TREE, package_root(), root, plugins, path, is_base=False, forks=self._forks)

    def _base(self) -> Version:
        plugins = [_mapped(plugin, self.tree) for plugin in self.plan.plugins]
        there = [plugin for plugin in plugins if not plugin.endswith(".py") or Path(plugin).is_file()]
        searched = self.tree.places(python_path())
        root, checkout = self.tree.of(package_root()), self.tree.root
        return Version(self.ref, root, checkout, there, searched, is_base=True, forks=self._forks)

    @property
    def _forks(self) -> bool:
        """Both sides start alike: an older ref does not know how to fork."""
        return Nursery.is_possible(self.tree.of(package_root()))

    def _side(self, version: Version, ledger: Ledger) -> LiveSide:
        folder = self.scratch / ("base" if version.is_base else "new")
        identities = Identities(self.plan, self.registry)
        return LiveSide(version, self.plan, identities, folder, self.stage, ledger, self._context(version))

    def _context(self, version: Version) -> dict[str, Any]:
        plan = self.plan
        context = machine.run_context(plan.facts, version.checkout)
        own = {"device": plan.facts.device, "threads": plan.threads, "seed": plan.seed}
        return {**context, **own, "started": datetime.now(UTC).isoformat(timespec="seconds")}


def _mapped(plugin: str, tree: Worktree) -> str:
    return str(tree.of(Path(plugin))) if plugin.endswith(".py") else plugin


def _same_on_both(plan: Plan, tree: Worktree) -> list[str]:
    """What this gate cannot see change, because it does not belong to the repository."""
    notes = []
    if not tree.contains(package_root()):
        notes.append("the package harness is installed: the same version on both sides")
    outside = [one for one in plan.plugins if one.endswith(".py") and not tree.contains(Path(one))]
    return notes + [f"plugin {one} lies outside the repository: the same on both sides" for one in outside]
