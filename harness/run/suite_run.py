"""A whole plan carried out: table after table, until the end or Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from harness.records.store import RunFolder, TableHeader
from harness.run import machine
from harness.run.client import package_root
from harness.run.former import Identities
from harness.run.interrupts import interruptible
from harness.run.ledger import Ledger
from harness.run.plan import Plan
from harness.run.progress import Progress
from harness.run.table import OpenRun, TableRun


def create_folder(plan: Plan, out: Path, command: dict[str, Any]) -> RunFolder:
    """The folder of a new run. Raises UsageError, before anything runs, when it cannot be written."""
    context = {**machine.run_context(plan.facts, package_root()), **_settings(plan), "command": command}
    suite = {"name": plan.suite.name, **msgspec.to_builtins(plan.suite.suite)}
    tables = {
        planned.name: TableHeader(
            planned.table.question, planned.table.baseline, planned.table.variants, len(planned.cells)
        )
        for planned in plan.tables
    }
    return RunFolder.create(out, plan.suite.name, suite, context, tables)


def run_plan(plan: Plan, identities: Identities, store: RunFolder, progress: Progress) -> bool:
    """Measure every cell of the plan that no stored record answers for, and copy the records that do.

    Returns False when Ctrl-C ended it early; what had ended by then is stored.

    Raises UsageError when a worker finds the input to blame, such as a checkpoint with a misshapen tensor.
    """
    context = {key: store.header.context[key] for key in ("machine", "versions", "git")} | _settings(plan)
    identities.settle()
    run = OpenRun(plan, identities, store, progress, Ledger(), context)
    finished = False
    active: list[TableRun] = []

    def kill_workers() -> None:
        for table in active:
            table.workers.close()

    try:
        with interruptible(kill_workers):
            for planned in plan.tables:
                active[:] = [TableRun(run, planned)]
                active[0].measure()
        finished = True
    except KeyboardInterrupt:
        pass
    finally:
        progress.close()
        store.close(run.ledger.close(finished))
    return finished


def _settings(plan: Plan) -> dict[str, Any]:
    return {"device": plan.facts.device, "threads": plan.threads, "seed": plan.seed}
