"""Workers that are forked: they answer, end and are missed like those that are started by themselves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.records.record import Status
from harness.run import protocol
from harness.run.client import CellError, WorkerClient, package_root, worker_environment
from harness.run.nursery import ForkedWorker, Nursery
from tests.run.test_client import client, open_request, quiet

pytestmark = pytest.mark.skipif(not Nursery.is_possible(package_root()), reason="needs Linux")


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    made = Nursery(worker_environment(package_root()), tmp_path / "nursery.log")
    yield made
    made.close()


def forked(folder: Path, nursery: Nursery, name: str = "worker") -> WorkerClient:
    worker = client(folder)
    worker.nursery, worker.log = nursery, folder / f"{name}.log"
    return worker


def test_a_forked_worker_answers_as_any_other(tmp_path: Path, nursery: Nursery) -> None:
    own, other = client(tmp_path), forked(tmp_path, nursery)
    answers = []
    for worker in (own, other):
        ready = worker.start(60.0, quiet)
        worker.ask(open_request(worker, 8), 60.0, quiet)
        done = worker.ask(protocol.Block(2, 0), 60.0, quiet)
        assert isinstance(done, protocol.Done)
        context = {key: value for key, value in ready.context.items() if key != "worker_pid"}
        answers.append((ready.resolved, context, ready.roots, list(done.samples)))
        worker.close()
    assert other.process is None
    assert answers[0] == answers[1]


def test_each_is_a_process_of_its_own_and_the_parents_child(tmp_path: Path, nursery: Nursery) -> None:
    workers = [forked(tmp_path, nursery, name) for name in ("one", "two")]
    for worker in workers:
        worker.start(60.0, quiet)
    pids = [worker.process.pid for worker in workers if worker.process]
    assert len(set(pids)) == 2
    assert {psutil.Process(pid).ppid() for pid in pids} == {os.getpid()}
    assert [os.getpgid(pid) for pid in pids] == pids, "each can be ended with all that it starts"
    workers[0].close()
    assert workers[1].alive
    workers[1].close()
    assert not any(psutil.pid_exists(pid) for pid in pids), "waited for, so that nothing of them is left"


def test_how_it_was_killed_is_told(tmp_path: Path, nursery: Nursery) -> None:
    worker = forked(tmp_path, nursery)
    worker.start(60.0, quiet)
    assert isinstance(worker.process, ForkedWorker)
    os.kill(worker.process.pid, signal.SIGSEGV)
    with pytest.raises(CellError) as caught:
        worker.ask(open_request(worker, 8), 60.0, quiet)
    assert (caught.value.status, caught.value.reasons) == (Status.FAILED, ["the worker was killed by SIGSEGV"])


def test_what_it_prints_is_in_its_log(tmp_path: Path, nursery: Nursery) -> None:
    worker = forked(tmp_path, nursery)
    worker.start(60.0, quiet)
    assert worker.process is not None
    os.kill(worker.process.pid, signal.SIGABRT)  # faulthandler writes the stack
    with pytest.raises(CellError) as caught:
        worker.ask(open_request(worker, 8), 60.0, quiet)
    assert "Fatal Python error: Aborted" in caught.value.output


def test_a_nursery_that_cannot_import_is_a_failure_with_its_log_named(tmp_path: Path) -> None:
    broken = Nursery({**os.environ, "PYTHONPATH": str(tmp_path)}, tmp_path / "nursery.log")
    (tmp_path / "harness.py").write_text("raise RuntimeError('planted')\n")
    worker = forked(tmp_path, broken)
    with pytest.raises(CellError) as caught:
        worker.start(60.0, quiet)
    broken.close()
    assert caught.value.status == Status.FAILED
    assert "could not be started" in caught.value.reasons[0]
    assert str(tmp_path / "nursery.log") in caught.value.reasons[0]
    assert "planted" in (tmp_path / "nursery.log").read_text()


def test_it_imports_from_the_moment_when_it_is_opened(tmp_path: Path, nursery: Nursery) -> None:
    nursery.open()
    opened = nursery.process
    assert opened is not None
    assert opened.poll() is None
    nursery.open()
    worker = forked(tmp_path, nursery)
    worker.start(60.0, quiet)
    assert nursery.process is opened
    worker.close()


def test_without_a_parent_it_ends(nursery: Nursery, tmp_path: Path) -> None:
    worker = forked(tmp_path, nursery)
    worker.start(60.0, quiet)
    worker.close()
    assert nursery.socket is not None
    assert nursery.process is not None
    nursery.socket.close()
    deadline = time.monotonic() + 20
    while nursery.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert nursery.process.poll() == 0


def test_closing_before_anything_was_asked_is_nothing(tmp_path: Path) -> None:
    Nursery({}, tmp_path / "nursery.log").close()
    assert not (tmp_path / "nursery.log").exists()
