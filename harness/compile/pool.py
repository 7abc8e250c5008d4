"""Compiling in parallel: a few processes, each given the next build as soon as it is done with the last."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import msgspec

from harness.compile.facts import BuildFacts
from harness.compile.process import Job


def environment(base: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What a compiling process gets: never interpreted, one thread, Triton's own cache out of the way.

    FP contraction is on, as it has been in every launch so far; triton 3.9 warns that leaving it unset will mean
    something else later.
    """
    kept = {name: value for name, value in base.items() if name != "TRITON_INTERPRET"}
    own = {"TRITON_DEFAULT_FP_FUSION": "1", "TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    return {**kept, **own, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@dataclass
class CompileProcess:
    """One process, started when it first gets a job and again after it has died."""

    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def facts(self, job: Job, operator: str) -> BuildFacts:
        """What came out of one job; that of a process that died is a failure of its build."""
        process = self._alive()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(job) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            return msgspec.json.decode(line, type=BuildFacts)
        return BuildFacts(job.build, operator, job.target, failure=f"the compiler died: {self._obituary()}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.compile.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log.open("wb"),
                env=environment(os.environ, self.folder / "triton"),
            )
        return self._process

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _obituary(self) -> str:
        """How it ended, and the last line that it printed."""
        assert self._process is not None
        code = self._process.wait()
        self._process.communicate()
        self._process = None
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f"exit code {code}{f', {lines[-1][:200]}' if lines else ''}"


@contextmanager
def compiling(count: int) -> Iterator[Compilers]:
    """`count` processes; they end with the block, and so do the files that they wrote."""
    folder = Path(tempfile.mkdtemp(prefix="harness-compile-"))
    processes = []
    for number in range(count):
        (folder / str(number)).mkdir()
        processes.append(CompileProcess(folder / str(number)))
    try:
        yield Compilers(processes)
    finally:
        for process in processes:
            process.close()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Compilers:
    """Processes that share a list of jobs."""

    processes: Sequence[CompileProcess]

    def facts(self, jobs: Sequence[tuple[Job, str]], done: Callable[[BuildFacts], None]) -> None:
        """Compile (job, operator) after (job, operator); `done` hears of each as it ends, on the calling thread."""
        idle: SimpleQueue[CompileProcess] = SimpleQueue()
        for process in self.processes:
            idle.put(process)

        def run(job: Job, operator: str) -> BuildFacts:
            process = idle.get()
            try:
                return process.facts(job, operator)
            finally:
                idle.put(process)

        with ThreadPoolExecutor(len(self.processes)) as threads:
            for future in as_completed([threads.submit(run, *one) for one in jobs]):
                done(future.result())
