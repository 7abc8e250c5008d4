"""The workers of one table: one process per variant, started when first needed, replaced after a failure."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from harness.errors import UsageError
from harness.records.record import Status
from harness.run import protocol
from harness.run.client import CellError, Listener, WorkerClient, package_root
from harness.run.plan import Plan, PlannedTable
from harness.run.progress import Progress
from harness.suite.variant import Variant


class Workers:
    """Hands out the running worker of a variant."""

    def __init__(self, plan: Plan, table: PlannedTable, scratch: Path, progress: Progress) -> None:
        self.plan = plan
        self.table = table
        self.scratch = scratch
        self.progress = progress
        self._expected = Counter(table.starts)
        self._running: dict[Variant, WorkerClient] = {}
        self._hopeless: dict[Variant, CellError] = {}
        self._numbers = itertools.count(1)

    def get(self, variant: Variant, seconds: float, listen: Listener) -> WorkerClient:
        """The variant's worker with its model loaded, started now if need be.

        Raises CellError when it does not load within `seconds`, and at once when it reported before that it cannot
        load or took too long; a worker that died on the way gets another chance. Raises UsageError when the input
        (checkpoint, plugin) is to blame.
        """
        if variant in self._hopeless:
            raise self._hopeless[variant]
        if variant not in self._running:
            self._start(variant, seconds, listen)
        return self._running[variant]

    def drop(self, variant: Variant) -> None:
        """End a worker; the next `get` starts a fresh one."""
        client = self._running.pop(variant, None)
        if client is not None:
            client.close()

    def drop_dead(self, variant: Variant) -> None:
        """Forget a worker that died while nobody asked it anything: no cell is to blame."""
        client = self._running.get(variant)
        if client is not None and not client.alive:
            self.drop(variant)

    def drop_others(self, variant: Variant) -> None:
        """End all workers but this variant's."""
        for other in [other for other in self._running if other != variant]:
            self.drop(other)

    def close(self) -> None:
        """End all workers."""
        for variant in list(self._running):
            self.drop(variant)

    def _start(self, variant: Variant, seconds: float, listen: Listener) -> None:
        log = self.scratch / f"{self.table.name}-{next(self._numbers)}.log"
        client = self._client(variant, log)
        self._running[variant] = client
        listen(0.0, "loading the model")
        try:
            client.start(seconds, listen)
        except CellError as error:
            self.drop(variant)
            raise self._cannot_load(variant, error) from None
        finally:
            self._count(variant)

    def _count(self, variant: Variant) -> None:
        """As many starts as planned are part of the estimate."""
        if self._expected[variant]:
            self._expected[variant] -= 1
            self.progress.advance(self.table.load_seconds[variant])

    def _cannot_load(self, variant: Variant, error: CellError) -> Exception:
        """What to tell of a failed start, remembered when another try would end the same way."""
        if error.usage:
            return UsageError(error.reasons[0])
        if error.status != Status.UNSUPPORTED:
            reasons = [f"while loading the model: {reason}" for reason in error.reasons]
            error = CellError(error.status, reasons, error.output, answered=error.answered)
        if error.answered or error.status == Status.TIMEOUT:
            self._hopeless[variant] = error
        return error

    def _client(self, variant: Variant, log: Path) -> WorkerClient:
        environment = self.table.environments.get(variant, {})
        limit, tick = self.table.sampling.timeout, self.progress.tick
        return WorkerClient(self._setup(variant), log, limit, tick=tick, environment=environment)

    def _setup(self, variant: Variant) -> protocol.Load:
        return protocol.Load(
            checkpoint=self.table.table.checkpoint,
            variant=variant,
            device=self.plan.facts.device,
            threads=self.plan.threads,
            seed=self.plan.seed,
            plugins=self.plan.plugins,
            folder=str(self.scratch),
            root=str(package_root()),
            model=self.table.needs_model,
            fresh=self.plan.fresh,
        )
