"""A process that has imported what every worker needs, and becomes workers by forking.

Most of a worker's start is importing torch, and a fork has done that already. A gate restarts all workers visit after
visit, because processes of the same code differ, so each side of a visit gets a fresh nursery: its workers share a
layout of memory, those of the next visit have another. Both sides' have to be opened together: where one is
opened after the other has imported, its workers are faster by a percent or more (docs/log.md, 2026-11-28).

A forked worker is handed to the parent (prctl(2), PR_SET_CHILD_SUBREAPER), which can wait for it as for its own child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from harness.run.interrupts import shielded

PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.02

PRELOADED = (
    "torch",
    "harness.contract.registry",
    "harness.contract.runner",
    "harness.measure.measurement",
    "harness.measure.prefill",
    "harness.measure.decode",
    "harness.measure.planted",
    "harness.model.presets",
    "harness.run.worker",
)
"""What a nursery imports; everything that depends on the variant is left to the worker."""


class ForkedWorker:
    """A worker that a nursery has forked, as `subprocess.Popen` shows a process."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code


class Nursery:
    """The parent's side: workers of one code version on demand, from any thread."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        """`environment` has the version's packages first on its path; nothing starts before it is opened."""
        self.environment = dict(environment)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None
        self._lock = threading.Lock()

    @staticmethod
    def is_possible(root: Path) -> bool:
        """Whether this system and the code version at `root` can do it."""
        return sys.platform == "linux" and (root / "harness" / "run" / "nursery.py").is_file()

    def open(self) -> None:
        """Start the process, unless it runs; it imports while others do. Raises OSError when it cannot be started."""
        with self._lock:
            if self.socket is None:
                self.socket = self._start()

    def worker(self, log: IO[bytes], seconds: float) -> ForkedWorker:
        """A new worker that writes what it prints to `log`. Raises OSError when there is none within `seconds`."""
        self.open()
        own_stdin, stdin = os.pipe()
        stdout, own_stdout = os.pipe()
        try:
            pid = self._fork([own_stdin, own_stdout, log.fileno()], seconds)
        except OSError:
            os.close(stdin)
            os.close(stdout)
            raise
        finally:
            os.close(own_stdin)
            os.close(own_stdout)
        return ForkedWorker(pid, os.fdopen(stdin, "wb", buffering=0), os.fdopen(stdout, "rb", buffering=0))

    def close(self) -> None:
        """End the nursery; its workers live on."""
        with contextlib.suppress(OSError):
            if self.socket is not None:
                self.socket.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _fork(self, files: list[int], seconds: float) -> int:
        assert self.socket is not None, "a nursery is open before it forks"
        with self._lock:
            try:
                self.socket.settimeout(seconds)
                socket.send_fds(self.socket, [b"worker"], files)
                answer = self.socket.recv(32)
            except ConnectionError:
                answer = b""
        if not answer:
            raise ChildProcessError(None, f"the process that forks workers has ended; see {self.log}")
        return int(answer)

    def _start(self) -> socket.socket:
        _adopt_orphans()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self.log.open("wb") as log, shielded():
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.run.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return ours


def _adopt_orphans() -> None:
    """Whatever a nursery forks becomes a child of this process when the process in between has ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


# --- in the nursery ---------------------------------------------------------------------------------------


def _fork_worker(parent: socket.socket, files: list[int]) -> int | None:
    """The worker's number, which is not the nursery's child any more; None in the worker itself."""
    told, tell = os.pipe()
    between = os.fork()
    if not between:
        worker = os.fork()
        if worker:
            os.write(tell, str(worker).encode())
            os._exit(0)
        os.setsid()
        parent.close()
        os.close(told)
        os.close(tell)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return None
    os.close(tell)
    number = int(os.read(told, 32))
    os.close(told)
    os.waitpid(between, 0)
    for file in files:
        os.close(file)
    return number


def main() -> None:
    """Fork a worker for every message, until the parent goes away."""
    import gc
    import importlib

    parent = socket.socket(fileno=int(sys.argv[1]))
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(parent, 16, 3)
        if not message:
            return
        number = _fork_worker(parent, files)
        if number is None:
            break
        parent.send(str(number).encode())
    worker: Any = importlib.import_module("harness.run.worker")
    worker.main()


if __name__ == "__main__":
    main()
