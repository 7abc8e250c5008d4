"""A whole plan carried out: table after table, until the end or Ctrl-C."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import UsageError
from harness.records.record import Status
from harness.records.store import RunFolder, TableHeader
from harness.run import machine
from harness.run.client import package_root
from harness.run.interrupts import interruptible
from harness.run.plan import Plan
from harness.run.progress import Progress
from harness.run.table import TableRun

FORMER_RUNS = 5
"""Stored runs of a suite that estimates of time go by."""


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


def run_plan(plan: Plan, store: RunFolder, progress: Progress) -> bool:
    """Measure every cell of the plan. Returns False when Ctrl-C ended it early; what had ended by then is stored.

    Raises UsageError when a worker finds the input to blame, such as a checkpoint with a misshapen tensor.
    """
    context = {key: store.header.context[key] for key in ("machine", "versions", "git")} | _settings(plan)
    active: list[TableRun] = []

    def kill_workers() -> None:
        for table in active:
            table.workers.close()

    try:
        with interruptible(kill_workers):
            for planned in plan.tables:
                active[:] = [TableRun(plan, planned, store, progress, context)]
                active[0].run()
        return True
    except KeyboardInterrupt:
        return False
    finally:
        progress.close()
        store.close()


def _settings(plan: Plan) -> dict[str, Any]:
    return {"device": plan.facts.device, "threads": plan.threads, "seed": plan.seed}


def former_seconds(out: Path, suite: str) -> dict[tuple[str, str], float]:
    """(checkpoint's name, cell id) to the seconds that it took in the last runs of this suite below `out`."""
    seconds: dict[tuple[str, str], float] = {}
    for header in sorted(out.glob(f"{suite}-*/run.json"), key=lambda path: path.stat().st_mtime)[-FORMER_RUNS:]:
        with contextlib.suppress(UsageError, OSError):  # a broken old run is no reason not to plan a new one
            for record in RunFolder.open(header.parent).records():
                if record.status == Status.PASSED:
                    seconds[record.checkpoint.get("name", ""), record.cell] = float(record.context.get("seconds", 0.0))
    return seconds
