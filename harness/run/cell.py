"""One cell while it is measured: its requests, its time limit, its share of the progress bar, its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from harness.records.blocks import samples_by_block
from harness.records.record import Block, Metric, Record, Status
from harness.run import machine, protocol
from harness.run.client import CellError, WorkerClient
from harness.run.ledger import Ledger, Purpose
from harness.run.plan import PlannedCell
from harness.run.progress import Progress
from harness.run.rounds import Quota, Turn
from harness.run.workers import Workers
from harness.suite.cell import CellId
from harness.suite.schema import Sampling

OPENED, TURNED = 0.2, 0.8
"""How much of a process's time with a timed cell is over when it is warm, and when its last turn is."""

ROUNDS_APART = 10_000
"""Rounds that one process may take before its inputs would be those of the next one."""


class CellRun:
    """A cell from its first opening to its outcome, over all its processes. After a failure no step does anything."""

    def __init__(
        self, planned: PlannedCell, workers: Workers, sampling: Sampling, progress: Progress, ledger: Ledger
    ) -> None:
        self.planned = planned
        self.workers = workers
        self.sampling = sampling
        self.progress = progress
        self.ledger = ledger
        self.quota = Quota.of(sampling)
        self.own_time = False
        """Whether times leave out what the worker waited for a processor that other processes had."""
        self.failure: CellError | None = None
        self.result: protocol.Result | None = None
        self.ready: protocol.Ready | None = None
        self.timed = False
        self.one_processor = False
        """Whether all that take turns do so on one processor: another one in the next process."""
        self.process = 0
        self.turns: list[Turn] = []
        """Of all processes, those of a former run that was interrupted included."""
        self.seconds = 0.0
        self.repetition_seconds = 0.0
        """What one warm repetition took when the cell was last opened."""
        self.load_before = machine.load_average()
        self._left = sampling.timeout
        self._spent = 0.0
        self._shown = 0.0
        if planned.begun:
            self.turns = [Turn(block, samples) for block, samples in samples_by_block(planned.begun.record)]
            self.seconds = float(planned.begun.record.context.get("seconds", 0.0))

    @property
    def id(self) -> CellId:
        """The cell."""
        return self.planned.cell

    @property
    def alive(self) -> bool:
        """Whether it may still end well."""
        return self.failure is None

    @property
    def own_turns(self) -> list[Turn]:
        """The turns of the present process."""
        return [turn for turn in self.turns if turn.block.process == self.process]

    def needs(self, process: int) -> bool:
        """Whether it is yet to be measured in this process; a cell without a clock is measured once."""
        over = not self.alive or (self.result is not None and self.result.status != Status.PASSED)
        if over or not self.planned.measured or (process > 0 and not self.planned.is_timed):
            return False
        return all(turn.block.process != process for turn in self.turns)

    def open(self, reference: CellId | None, process: int, turns: bool = True) -> None:
        """Set up and warm up, in a worker that is started if need be; loading has a time limit of its own.

        Without `turns` it is only going to answer, and needs no warm-up.
        """
        self.process, self._left, self._spent = process, self.sampling.timeout, 0.0
        request = protocol.Open(
            cell=self.id,
            workload=self.planned.workload.workload,
            reference=reference.id if reference else None,
            warmup=self.sampling.warmup if turns else 0,
            warmup_limit=self.quota.warmup_limit if turns else 0,
            flush_l2=self.sampling.flush_l2,
            own_time=self.own_time,
        )

        def act(worker: WorkerClient) -> None:
            before = self.seconds
            self.one_processor = worker.take_place(process if self.planned.is_timed else None)
            reply = self._ask(worker, request, 0.0, OPENED, "setting up")
            assert isinstance(reply, protocol.Opened)
            self.timed = reply.timed
            self._spent = reply.warmup_seconds
            self.repetition_seconds = reply.repetition_seconds
            self.ledger.add("loading", reply.loading_seconds)
            self.ledger.add("warmup", reply.warmup_seconds)
            self.ledger.add("setup", self.seconds - before - reply.loading_seconds - reply.warmup_seconds)

        self.workers.drop_dead(self.id.variant)
        self._guarded(act)

    def take_turn(self, number: int, position: int, samples: int | None = None, closing: bool = False) -> None:
        """One turn of timed repetitions (the suite's number, or `samples`), in round `number` of this process.

        The inputs of a `closing` turn are those that an answer may be judged by.
        """
        samples = samples or self.sampling.samples
        fraction = max(number / self.quota.least, self._spent / self.quota.seconds if self.quota.seconds else 1.0)
        start = OPENED + (TURNED - OPENED) * min(fraction, 1.0)
        inputs = -samples if closing else (self.process * ROUNDS_APART + number) * samples

        def act(worker: WorkerClient) -> None:
            request = protocol.Block(samples, inputs)
            reply = self._ask(worker, request, start, start, f"round {number + 1}")
            assert isinstance(reply, protocol.Done)
            counts = {name: len(samples) for name, samples in reply.samples.items()}
            block = Block(self.process, number, position, round(reply.seconds, 6), counts, reply.conditions)
            self.turns.append(Turn(block, reply.samples))
            self._spent += reply.seconds
            self.ledger.add("measured", reply.seconds)

        self._guarded(act)

    def space_turn(self, number: int, samples: int) -> None:
        """One repetition that does not count, so that the other side's next turn does not follow one of its own.

        Its inputs are those of no turn of so many `samples`.
        """

        def act(worker: WorkerClient) -> None:
            inputs = (self.process * ROUNDS_APART + ROUNDS_APART // 2 + number) * samples
            reply = self._ask(worker, protocol.Block(1, inputs), self._shown, self._shown, f"round {number + 1}")
            assert isinstance(reply, protocol.Done)
            self._spent += reply.seconds
            self.ledger.add("measured", reply.seconds)

        self._guarded(act)

    def wants_turn(self, baseline: CellRun | None) -> bool:
        """Whether its interval is still too wide and its time not spent, the closing turn aside; see `Quota.enough`."""
        beside = baseline.own_turns if baseline and baseline is not self and baseline.alive else []
        return self.alive and not self.quota.enough(self.own_turns, self._spent, beside)

    def finish(self) -> None:
        """Check the answer and take the outcome."""
        purpose: Purpose = "checks" if self.timed else "measured"

        def act(worker: WorkerClient) -> None:
            before = self.seconds
            reply = self._ask(worker, protocol.Finish(), self._shown, 1.0, "checking" if self.timed else "evaluating")
            assert isinstance(reply, protocol.Result)
            self.result = reply
            self.ledger.add(purpose, self.seconds - before)

        self._guarded(act)

    def _guarded(self, act: Callable[[WorkerClient], None]) -> None:
        """Do a step with the cell's worker; a failure is kept, and its worker is not trusted any further."""
        if not self.alive:
            return
        try:
            with self.ledger.spending("loading"):
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
        begun = self.ledger.clock()
        try:
            reply = worker.ask(request, self._left, listen)
        finally:
            self._left -= self.ledger.clock() - begun
            self.seconds += self.ledger.clock() - begun
        self._show(end)
        return reply

    def _loading(self, _: float, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        self.progress.say(f"{self.id.table}: {self.planned.label}: {text}")

    def _show(self, fraction: float) -> None:
        """Move the progress bar on to this fraction of the present process's share of the cell."""
        processes = self.sampling.processes if self.planned.is_timed else 1
        shown = (self.process + fraction) / processes if self.alive else 1.0
        self.progress.advance(max(0.0, shown - self._shown) * self.planned.seconds)
        self._shown = max(self._shown, shown)

    # --- the record -------------------------------------------------------------------------------

    def record(self, checkpoint: dict[str, Any], context: dict[str, Any], samples_file: str | None) -> Record:
        """How the cell ended. A status other than passed or incorrect carries no metrics."""
        own = {
            "seconds": round(self.seconds, 3),
            "turns": [block.position for block in self._blocks() if not block.dropped],
            "one_processor": self.one_processor,
            "load_before": self.load_before,
            "load_after": machine.load_average(),
        }
        if self.planned.begun:
            own["continues"] = self.planned.begun.measured_in
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
            "metrics": with_samples(self.result.metrics, self._kept()),
            "context": {**record.context, **self.result.context},
            "blocks": self._blocks() if self.result.status == Status.PASSED else [],
            "samples_file": samples_file,
        }

    def _kept(self) -> list[Turn]:
        """The turns whose samples count, process by process."""
        processes = dict.fromkeys(turn.block.process for turn in self.turns)
        each = ([turn for turn in self.turns if turn.block.process == process] for process in processes)
        return [turn for turns in each for turn in self.quota.kept(turns)]

    def _blocks(self) -> list[Block]:
        """All blocks; those that do not count keep their samples to themselves."""
        kept = {id(turn) for turn in self._kept()}
        return [
            turn.block if id(turn) in kept else replace(turn.block, dropped=True, samples=dict(turn.samples))
            for turn in self.turns
        ]


def with_samples(metrics: Mapping[str, Metric], turns: Sequence[Turn]) -> dict[str, Metric]:
    """A process's metrics with the samples of all processes, where they were taken in blocks and may be given."""
    merged = {}
    for name, metric in metrics.items():
        samples = [sample for turn in turns for sample in turn.samples.get(name, ())]
        merged[name] = replace(metric, samples=samples) if samples and metric.withheld is None else metric
    return merged
