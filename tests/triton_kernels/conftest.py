"""How kernels are tested: compiled where there is a GPU, else interpreted, each file in a process of its own.

TRITON_INTERPRET must be set before triton is first imported (torch and transformers import it), so a file of this
folder is one test in a process without it: it runs that file again with it. To choose single tests, or to debug:

    TRITON_INTERPRET=1 python -m pytest tests/triton_kernels/test_rotary.py -k interleaved
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = Path(__file__).parent
LIMIT_SECONDS = 1800


class FailedInterpretedError(Exception):
    """The tests of a file failed under the interpreter; the message is what pytest printed."""


class InterpretedFile(pytest.File):
    """A test file that runs in a process with TRITON_INTERPRET=1."""

    def collect(self) -> Iterator[pytest.Item]:
        run = InterpretedRun.from_parent(self, name="interpreted")
        run.add_marker(pytest.mark.timeout(LIMIT_SECONDS))  # of a whole file, on a machine that may be busy
        yield run


class InterpretedRun(pytest.Item):
    """That process."""

    def runtest(self) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(self.path)]
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command,
            cwd=self.config.rootpath,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise FailedInterpretedError(done.stdout)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, FailedInterpretedError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.stem} interpreted"


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take a file of this folder as it is where kernels can run, else as one interpreted run."""
    if INTERPRETED or torch.cuda.is_available() or module_path.parent != HERE:
        return None
    return InterpretedFile.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a GPU these tests run compiled, so they belong to those marked `gpu`."""
    if INTERPRETED or not torch.cuda.is_available():
        return
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels under test compute."""
    return "cpu" if INTERPRETED else "cuda"
