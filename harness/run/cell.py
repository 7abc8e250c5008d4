"""One cell while it is measured: its requests, its time limit, its share of the progress bar, its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from harness.records.record import Record, Status
from harness.run import machine, protocol
from harness.run.client import CellError, WorkerClient
from harness.run.plan import PlannedCell
from harness.run.progress import Progress
from harness.run.workers import Workers
from harness.suite.cell import CellId
from harness.suite.schema import Sampling

OPENED, TURNED = 0.2, 0.8
"""How much of a timed cell's estimated time is over when it is warm, and when its last turn is."""


class CellRun:
    """A cell from opening to outcome. After a failure every further step does nothing."""

    def __init__(self, planned: PlannedCell, workers: Workers, sampling: Sampling, progress: Progress) -> None:
        self.planned = planned
        self.workers = workers
        self.sampling = sampling
        self.progress = progress
        self.left = sampling.timeout
        self.failure: CellError | None = None
        self.result: protocol.Result | None = None
        self.ready: protocol.Ready | None = None
        self.timed = False
        self.turns: list[int] = []
        """Position at which this cell took its turn, round after round."""
        self.load_before = machine.load_average()
        self._shown = 0.0

    @property
    def id(self) -> CellId:
        """The cell."""
        return self.planned.cell

    @property
    def alive(self) -> bool:
        """Whether it may still end well."""
        return self.failure is None

    def open(self, reference: CellId | None) -> None:
        """Set up and warm up, in a worker that is started if need be; loading has a time limit of its own."""

        def act(worker: WorkerClient) -> None:
            request = protocol.Open(
                cell=self.id,
                workload=self.planned.workload.workload,
                reference=reference.id if reference else None,
                warmup=self.sampling.warmup if self.planned.measured else 0,
            )
            reply = self._ask(worker, request, 0.0, OPENED, "setting up")
            assert isinstance(reply, protocol.Opened)
            self.timed = reply.timed

        self.workers.drop_dead(self.id.variant)
        self._guarded(act)

    def take_turn(self, round_number: int, position: int) -> None:
        """One turn of timed repetitions."""

        def act(worker: WorkerClient) -> None:
            share = (TURNED - OPENED) / self.sampling.rounds
            start = OPENED + share * round_number
            text = f"round {round_number + 1} of {self.sampling.rounds}"
            self._ask(worker, protocol.Block(self.sampling.samples), start, start + share, text)
            self.turns.append(position)

        self._guarded(act)

    def finish(self) -> None:
        """Check the answer and take the outcome."""

        def act(worker: WorkerClient) -> None:
            reply = self._ask(worker, protocol.Finish(), self._shown, 1.0, "checking" if self.timed else "evaluating")
            assert isinstance(reply, protocol.Result)
            self.result = reply

        self._guarded(act)

    def _guarded(self, act: Callable[[WorkerClient], None]) -> None:
        """Do a step with the cell's worker; a failure is kept, and its worker is not trusted any further."""
        if not self.alive:
            return
        try:
            worker = self.workers.get(self.id.variant, self.sampling.timeout, self._loading)
            self.ready = worker.ready
            act(worker)
        except CellError as error:
            self.failure = error
            if error.status != Status.UNSUPPORTED:
                self.workers.drop(self.id.variant)
            self._show(1.0)

    def _ask(
        self, worker: WorkerClient, request: protocol.Request, start: float, end: float, text: str
    ) -> protocol.Reply:
        def listen(fraction: float, detail: str) -> None:
            self._show(start + (end - start) * min(max(fraction, 0.0), 1.0))
            self._say(detail or text)

        self._say(text)
        begun = time.monotonic()
        try:
            reply = worker.ask(request, self.left, listen)
        finally:
            self.left -= time.monotonic() - begun
        self._show(end)
        return reply

    def _loading(self, _: float, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        self.progress.say(f"{self.id.table}: {self.planned.label}: {text}")

    def _show(self, fraction: float) -> None:
        """Move the progress bar on to this fraction of the cell."""
        self.progress.advance(max(0.0, fraction - self._shown) * self.planned.seconds)
        self._shown = max(self._shown, fraction)

    # --- the record -------------------------------------------------------------------------------

    def record(self, checkpoint: dict[str, Any], context: dict[str, Any], samples_file: str | None) -> Record:
        """How the cell ended. A status other than passed or incorrect carries no metrics."""
        own = {
            "seconds": round(self.sampling.timeout - self.left, 3),
            "turns": self.turns,
            "load_before": self.load_before,
            "load_after": machine.load_average(),
        }
        ready = self.ready or protocol.Ready({}, {})
        record = Record(
            cell=self.id.id,
            table=self.id.table,
            variant=self.id.variant,
            workload=self.id.workload,
            status=Status.FAILED,
            checkpoint=checkpoint,
            resolved=ready.resolved,
            context={**context, **ready.context, **own},
        )
        return replace(record, **(self._failed(self.failure) if self.failure else self._finished(record, samples_file)))

    @staticmethod
    def _failed(failure: CellError) -> dict[str, Any]:
        return {"status": failure.status, "reasons": failure.reasons, "output": failure.output}

    def _finished(self, record: Record, samples_file: str | None) -> dict[str, Any]:
        assert self.result is not None, "a cell that neither failed nor finished has no record"
        return {
            "status": self.result.status,
            "reasons": self.result.reasons,
            "metrics": self.result.metrics,
            "context": {**record.context, **self.result.context},
            "samples_file": samples_file,
        }
