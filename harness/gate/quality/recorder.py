"""Records traces: `make traces`, or `python -m harness.gate.quality.recorder FILE`.

Ctrl-C stops it and the same command resumes. Nothing is decided here. The machine ought to be as it will be in use:
`--neighbours 2` adds processes that compete for cores and memory in bursts of seconds.
"""

from __future__ import annotations

import argparse
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.contract.planted import Planted
from harness.contract.registry import Registry
from harness.errors import EXIT_USAGE, UsageError
from harness.gate.quality.trace import (
    BASE,
    BIMODAL,
    PAIRS_A_ROUND,
    SLOWER,
    CellTurns,
    Header,
    Pairs,
    Session,
    Trace,
    TracedCell,
    append,
    read_trace,
)
from harness.records.record import Status
from harness.run import machine, protocol
from harness.run.client import CellError, WorkerClient, package_root, worker_environment
from harness.run.nursery import Nursery
from harness.suite.cell import CellId
from harness.suite.schema import Decode, Prefill
from harness.suite.variant import Variant

CHECKPOINT, FORM, SEED = "tiny-v3", "mqa", 0

CELLS = [
    TracedCell("decode", Decode(512, context="random", steps=4), "tpot", 1, spaced=True),
    TracedCell("prefill-128", Prefill(128, context="random"), "ttft", 2, spaced=True),
    TracedCell("prefill-256", Prefill(256, context="random"), "ttft", 1),
]
"""About 2 to 4, 4 to 8, and 8 to 20 ms a call on one thread."""

ROUNDS = 6
"""Rounds of every cell in a session; `PAIRS_A_ROUND` says what a round is."""

SPACERS = 1_000_000
"""Number of the inputs of the first repetition that does not count."""

TIME_LIMIT = 120.0
"""Seconds for any single request."""

PLANTED = {
    name: Planted(slower=2 * slower, share=0.5) if name == BIMODAL else Planted(slower=slower)
    for name, slower in SLOWER.items()
}

Workers = dict[str, WorkerClient]


@dataclass(frozen=True)
class Bench:
    """What all workers of a recording share."""

    variant: Variant
    folder: Path

    @contextmanager
    def workers(self, planted: dict[str, Planted]) -> Iterator[Workers]:
        """A fresh worker for each, forked as a gate does it: `base` and the others are two sides. Raises CellError."""
        environment = worker_environment(package_root())
        nurseries = [Nursery(environment, self.folder / f"nursery-{number}.log") for number in (0, 1)]
        for nursery in nurseries:
            nursery.open()
        clients = {name: self._client(name, defect, nurseries[name != BASE]) for name, defect in planted.items()}
        try:
            with ThreadPoolExecutor(machine.cpu_count()) as pool:
                list(pool.map(lambda client: client.start(TIME_LIMIT, _quiet), clients.values()))
            yield clients
        finally:
            for client in clients.values():
                client.close()
            for nursery in nurseries:
                nursery.close()

    def _client(self, name: str, planted: Planted, nursery: Nursery) -> WorkerClient:
        setup = protocol.Load(
            checkpoint=CHECKPOINT,
            variant=self.variant,
            device="cpu",
            threads=1,
            seed=SEED,
            plugins=[],
            folder=str(self.folder),
            root=str(package_root()),
            planted=planted,
        )
        return WorkerClient(setup, self.folder / f"{name}.log", TIME_LIMIT, nursery=nursery)


def take_pairs(workers: Workers, cell: TracedCell, rounds: int, draw: random.Random, process: int = 0) -> CellTurns:
    """Open the cell everywhere, take pairs of every worker with `base` in random order, and collect what they timed.

    Raises CellError when a worker fails or its answer is wrong.
    """
    for worker in workers.values():
        worker.take_place(process)
        worker.ask(_open(cell, worker.setup.variant), TIME_LIMIT, _quiet)
    found = {name: Pairs() for name in workers if name != BASE}
    numbers, start = itertools.count(), time.monotonic()
    for _ in range(rounds):
        for name in draw.sample(list(found), len(found)):
            beside = _Beside(workers[BASE], workers[name], cell, draw)
            beside.pair(next(numbers), Pairs())  # whoever waited longer is colder
            for _ in range(PAIRS_A_ROUND[name]):
                beside.pair(next(numbers), found[name])
    seconds = (time.monotonic() - start) / next(numbers) / 2
    for worker in workers.values():
        _require_right(worker)
    return CellTurns(round(seconds, 6), found)


@dataclass
class _Beside:
    """A variant's worker and `base`, taking turns."""

    base: WorkerClient
    own: WorkerClient
    cell: TracedCell
    draw: random.Random
    last: WorkerClient | None = None
    """Who took the turn before."""

    def pair(self, number: int, pairs: Pairs) -> None:
        """Two turns next to each other on equal inputs, a coin deciding who goes first; see `Lane`."""
        own_first = self.draw.random() < 0.5
        first, second = (self.own, self.base) if own_first else (self.base, self.own)
        if self.cell.spaced and first is self.last:
            second.ask(protocol.Block(1, SPACERS + number), TIME_LIMIT, _quiet)
        turns = [_turn(client, self.cell, number) for client in (first, second)]
        self.last = second
        times = [[round(1e3 * one) for one in done.samples[self.cell.metric]] for done in turns]
        pairs.own_first.append(own_first)
        pairs.base.append(times[own_first])
        pairs.own.append(times[not own_first])
        pairs.lost.append(max(map(_lost, turns)))


def _open(cell: TracedCell, variant: Variant) -> protocol.Open:
    workload = cell.workload
    keys = {"kind": workload.__struct_config__.tag, **{key: getattr(workload, key) for key in ("length", "batch")}}
    return protocol.Open(CellId("trace", keys, variant), workload, reference=None, warmup=3, own_time=True)


def _turn(client: WorkerClient, cell: TracedCell, number: int) -> protocol.Done:
    """One turn; equal round numbers draw equal inputs in every worker."""
    done = client.ask(protocol.Block(cell.samples, number * cell.samples), TIME_LIMIT, _quiet)
    assert isinstance(done, protocol.Done)
    return done


def _lost(done: protocol.Done) -> int:
    """Percent of the turn that went to others; 0 where the system does not tell."""
    return round(100 * max(done.conditions.waited or 0.0, done.conditions.stolen or 0.0))


def _require_right(client: WorkerClient) -> None:
    result = client.ask(protocol.Finish(), TIME_LIMIT, _quiet)
    assert isinstance(result, protocol.Result)
    if result.status != Status.PASSED:
        raise CellError(result.status, result.reasons)


def _quiet(_: float, __: str) -> None:
    """Nobody listens to a recording's progress but its own lines."""


# --- recording ------------------------------------------------------------------------------------------


def record(path: Path, minutes: float, neighbours: int = 0, rounds: int = ROUNDS, beside: str = "") -> Trace:
    """Record until no further session fits into so many minutes, going on where it stopped before.

    `beside` says what else was started on purpose, for whoever reads the trace. Raises UsageError when the file is no
    trace or one under another load, CellError when a worker fails.
    """
    with tempfile.TemporaryDirectory() as folder, _busy_machine(neighbours):
        bench = Bench(Registry().variant({"engine": "native", "form": FORM}), Path(folder))
        trace = _open_trace(path, bench, neighbours, beside)
        while _has_room(trace, minutes):
            session = _session(bench, trace, rounds)
            append(path, session)
            trace.sessions.append(session)
            print(f"session {session.number}: {trace.seconds / 60:.1f} of {minutes:g} minutes", file=sys.stderr)
    return trace


def _has_room(trace: Trace, minutes: float) -> bool:
    """Whether a session as long as the longest before it fits."""
    longest = max((session.seconds for session in trace.sessions), default=0.0)
    return trace.seconds + longest <= 60 * minutes


def _open_trace(path: Path, bench: Bench, neighbours: int, beside: str) -> Trace:
    if not path.exists():
        append(path, _header(path, bench, neighbours, beside))
    trace = read_trace(path)
    if trace.header.neighbours != neighbours:
        raise UsageError(f"was recorded beside {trace.header.neighbours} neighbours, not {neighbours}", str(path))
    return trace


def _header(path: Path, bench: Bench, neighbours: int, beside: str) -> Header:
    facts = machine.collect("cpu")
    return Header(
        name=path.name.split(".")[0],
        neighbours=neighbours,
        checkpoint=CHECKPOINT,
        variant=bench.variant.id,
        seed=SEED,
        cells=CELLS,
        planted=PLANTED,
        context=machine.run_context(facts, package_root()),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        beside=beside,
    )


def _session(bench: Bench, trace: Trace, rounds: int) -> Session:
    number, begun, started = len(trace.sessions), time.monotonic(), datetime.now(UTC)
    draw = random.Random(f"{trace.header.name} {number}")
    with bench.workers(trace.header.planted) as workers:
        ready = time.monotonic()
        cells = {cell.name: take_pairs(workers, cell, rounds, draw, number) for cell in trace.header.cells}
    return Session(
        number=number,
        started=round(started.timestamp(), 1),
        start_seconds=round(ready - begun, 2),
        seconds=round(time.monotonic() - begun, 2),
        load=machine.load_average(),
        cells=cells,
    )


# --- a busy machine -------------------------------------------------------------------------------------


@contextmanager
def _busy_machine(neighbours: int) -> Iterator[None]:
    command = [sys.executable, "-m", "harness.gate.quality.neighbour"]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(neighbours)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m harness.gate.quality.recorder", description=__doc__)
    parser.add_argument("file", type=Path, help="the trace, such as results/traces/quiet.jsonl.gz")
    parser.add_argument("--minutes", type=float, default=40.0, help="recorded time to reach (default: 40)")
    parser.add_argument("--neighbours", type=int, default=0, help="competing processes (default: 0)")
    parser.add_argument("--beside", default="", help="what else runs on purpose, in words that the document repeats")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds a session (default: {ROUNDS})")
    args = parser.parse_args(argv)
    try:
        record(args.file, args.minutes, args.neighbours, args.rounds, args.beside)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
    except (UsageError, CellError) as error:
        print(error if isinstance(error, UsageError) else f"{error.reasons}\n{error.output}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
