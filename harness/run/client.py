"""The parent's side of one worker process: start it, ask it, end it, and say in words how it died."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.records.record import Status
from harness.run import machine, protocol
from harness.run.allocator import keeping_freed_memory
from harness.run.interrupts import shielded
from harness.run.nursery import ForkedWorker, Nursery

OUTPUT_LINES = 30
"""Last lines of a worker's output that are kept with a failed cell."""

TICK_SECONDS = 1.0
"""How often a waiting parent looks up; seldom enough to be no neighbour to what is measured."""

Listener = Callable[[float, str], None]


@dataclass(eq=False)
class CellError(Exception):
    """A request that did not succeed, typed."""

    status: Status
    reasons: list[str]
    output: str = ""
    usage: bool = False
    """True when the input is to blame: the message says all."""
    answered: bool = False
    """True when the worker itself reported it; False when it died, hung or spoke nonsense."""


def package_root() -> Path:
    """The checkout (or site-packages) that this very code runs from."""
    return Path(__file__).resolve().parents[2]


@dataclass
class WorkerClient:
    """One worker process. Every failure ends it; ask for a new one afterwards."""

    setup: protocol.Load
    log: Path
    """File that takes everything the worker prints."""
    time_limit: float
    """What a cell, or loading the model, may take: named when it is over."""
    python_path: Sequence[str] | None = None
    """Folders searched after the root's own packages; None takes those of PYTHONPATH."""
    tick: Callable[[], None] = lambda: None
    """Called every `TICK_SECONDS` while an answer is waited for."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the process gets besides the parent's own (see `Option.environment`)."""
    nursery: Nursery | None = None
    """What forks the process; one with an `environment` of its own is started by itself in any case."""
    process: subprocess.Popen[bytes] | ForkedWorker | None = None
    ready: protocol.Ready | None = None
    _closed: bool = field(default=False, repr=False)
    _buffer: bytes = field(default=b"", repr=False)
    _oom_kills: dict[str, int] = field(default_factory=dict, repr=False)

    def start(self, seconds: float, listen: Listener) -> protocol.Ready:
        """Start the process and load the model. Raises CellError."""
        self._oom_kills = machine.oom_kills()
        try:
            self.process = self._spawn(seconds)
        except OSError as error:
            raise CellError(Status.FAILED, [f"the worker could not be started: {error.strerror}"]) from None
        if self._closed:  # by another thread, which saw no process yet
            raise self._ended(Status.FAILED, "was ended before it had started")
        reply = self.ask(self.setup, seconds, listen)
        assert isinstance(reply, protocol.Ready)
        self.ready = reply
        return reply

    def _spawn(self, seconds: float) -> subprocess.Popen[bytes] | ForkedWorker:
        with self.log.open("wb") as log:
            if self.nursery is not None and not self.environment:
                return self.nursery.worker(log, seconds)
            with shielded():
                return subprocess.Popen(
                    [sys.executable, "-P", "-m", "harness.run.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    env={**worker_environment(Path(self.setup.root), self.python_path), **self.environment},
                    start_new_session=True,  # Ctrl-C reaches the parent alone; a hung worker dies with its children
                )

    def ask(self, request: protocol.Request, seconds: float, listen: Listener) -> protocol.Reply:
        """Send a request and wait for its answer. Raises CellError: reported, dead, or later than `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            self._write(protocol.encode(request))
            reply = self._next(deadline)
            while isinstance(reply, protocol.Progress):
                listen(reply.fraction, reply.text)
                reply = self._next(deadline)
        except (BrokenPipeError, EOFError):
            raise self._obituary() from None
        except TimeoutError:
            text = f"was ended at the time limit of {self.time_limit:g} s (sampling.timeout)"
            raise self._ended(Status.TIMEOUT, text) from None
        except msgspec.DecodeError as error:
            raise self._ended(Status.FAILED, f"sent what the protocol does not know: {error}") from None
        except ValueError:
            if not self._closed:
                raise
            raise self._obituary() from None  # the pipe was closed by another thread
        if isinstance(reply, protocol.Error):
            output = reply.output or self._tail() if not reply.usage else ""
            raise CellError(reply.status, reply.reasons, output, reply.usage, answered=True)
        return reply

    def take_place(self, number: int | None) -> bool:
        """Keep the main thread to one processor, the `number`-th of those there are, counted round; None frees it.

        Two processors of a shared machine are never equally fast, so workers that take turns belong on the same one.
        Does nothing to a worker of several threads or of a GPU. Returns whether it is kept to one.
        """
        usable = machine.processors()
        if self.process is None or not usable or self.setup.threads > 1 or self.setup.device != "cpu":
            return False
        place = usable if number is None else [usable[number % len(usable)]]
        with contextlib.suppress(ProcessLookupError):  # whoever asks next will see
            os.sched_setaffinity(self.process.pid, place)
        return len(place) == 1

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self.process is not None and self.process.poll() is None

    def close(self) -> None:
        """End the process and everything that it started; one that another thread is just starting ends at once."""
        self._closed = True
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    # --- the wire ---------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        process = self._open_process()
        assert process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[process.stdin.write(view) or 0 :]

    def _next(self, deadline: float) -> protocol.Reply:
        """The next line. Raises EOFError when the worker is gone or was ended, TimeoutError after the deadline."""
        chunks = [self._buffer]
        while b"\n" not in chunks[-1]:
            chunks.append(self._read(deadline))
        line, _, self._buffer = b"".join(chunks).partition(b"\n")
        return protocol.decode_reply(line)

    def _read(self, deadline: float) -> bytes:
        stream = self._open_process().stdout
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not selector.select(min(max(0.0, deadline - time.monotonic()), TICK_SECONDS)):
                self._open_process()  # a pipe that another thread has closed is never ready
                if time.monotonic() >= deadline:
                    raise TimeoutError
                self.tick()
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            raise EOFError
        return data

    def _open_process(self) -> subprocess.Popen[bytes] | ForkedWorker:
        """The process. Raises EOFError when another thread has ended it."""
        process = self.process
        if process is None:
            raise EOFError
        return process

    # --- how it ended -----------------------------------------------------------------------------

    def _ended(self, status: Status, what: str) -> CellError:
        output = self._tail()
        self.close()
        return CellError(status, [f"the worker {what}"], output)

    def _obituary(self) -> CellError:
        """Why a worker that closed its pipe is gone."""
        process = self.process
        if process is None:
            return CellError(Status.FAILED, ["the worker was ended while it was asked"])
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return self._ended(Status.FAILED, "closed its pipe and went on running; it was ended")
        if code >= 0:
            return self._ended(Status.FAILED, f"exited with code {code}")
        name = signal.Signals(-code).name
        evidence = machine.oom_evidence(self._oom_kills) if -code == signal.SIGKILL else None
        if evidence:
            return self._ended(Status.OOM, f"was killed by the kernel for memory ({evidence})")
        return self._ended(Status.FAILED, f"was killed by {name}")

    def _tail(self) -> str:
        try:
            text = self.log.read_bytes()[-65536:].decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-OUTPUT_LINES:])


def python_path() -> list[str]:
    """The folders that PYTHONPATH names."""
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def worker_environment(root: Path, searched: Sequence[str] | None = None) -> dict[str, str]:
    """The parent's, with both packages of `root` first on the path of a checkout, and freed memory kept."""
    places = [str(root), str(root / "plugins")] if (root / "plugins" / "harness_plugins").is_dir() else []
    given = python_path() if searched is None else list(searched)
    return keeping_freed_memory({**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places + given))})
