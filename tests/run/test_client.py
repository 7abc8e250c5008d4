"""One worker process seen from the parent: where its code comes from, and what its end is called."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from harness.contract.registry import Registry
from harness.records.record import Status
from harness.run import machine, protocol
from harness.run.client import CellError, WorkerClient, package_root
from harness.run.worker import describe
from harness.suite.cell import CellId
from harness.suite.schema import Prefill
from tests.support.fake_suite import PLUGIN, fake_suite


def client(folder: Path, kernels: str = "sound", root: Path | None = None) -> WorkerClient:
    """A worker of the fake engine, not yet started."""
    if not (folder / "checkpoint").exists():
        fake_suite(folder, [kernels], [8])
    setup = protocol.Load(
        checkpoint=str(folder / "checkpoint"),
        variant=Registry([str(PLUGIN)], entry_points=False).variant({"engine": "fake", "kernels": kernels}),
        device="cpu",
        threads=1,
        seed=3,
        plugins=[str(PLUGIN)],
        folder=str(folder),
        root=str(root or package_root()),
    )
    return WorkerClient(setup, folder / "worker.log", 60.0)


def quiet(_: float, __: str) -> None:
    pass


def open_request(worker: WorkerClient, length: int) -> protocol.Open:
    cell = CellId("t", {"kind": "prefill", "length": length, "batch": 1}, worker.setup.variant)
    return protocol.Open(cell, Prefill(length, context="random"), None, 1)


@pytest.fixture(scope="module")
def copied_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkout, whose worker says so."""
    root = tmp_path_factory.mktemp("other") / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package_root() / "harness", root / "harness", ignore=ignore)
    shutil.copytree(package_root() / "plugins", root / "plugins", ignore=ignore)
    worker = root / "harness" / "run" / "worker.py"
    worker.write_text(worker.read_text().replace('"torch_threads"', '"threads_of_the_copy"'))
    return root


def test_a_worker_of_another_checkout_runs_that_checkouts_code(tmp_path: Path, copied_checkout: Path) -> None:
    worker = client(tmp_path, root=copied_checkout)
    ready = worker.start(60.0, quiet)
    worker.close()
    assert ready.context["threads_of_the_copy"] == 1
    assert ready.protocol == protocol.PROTOCOL
    assert ready.roots == {"harness": str(copied_checkout), "harness_plugins": str(copied_checkout / "plugins")}


def test_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    worker = client(tmp_path, root=tmp_path / "nowhere")
    with pytest.raises(CellError) as caught:
        worker.start(60.0, quiet)
    worker.close()
    assert caught.value.usage
    assert "it has to come from" in caught.value.reasons[0]


def test_the_users_own_python_path_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.run.client import worker_environment

    monkeypatch.setenv("PYTHONPATH", f"/their/own{os.pathsep}")
    root = package_root()
    assert worker_environment(root)["PYTHONPATH"].split(os.pathsep) == [str(root), str(root / "plugins"), "/their/own"]
    assert worker_environment(tmp_path)["PYTHONPATH"].split(os.pathsep) == ["/their/own"]


@pytest.mark.skipif(len(machine.processors()) < 2, reason="nothing to choose from")
def test_workers_that_take_turns_share_a_processor(tmp_path: Path) -> None:
    workers, usable = [client(tmp_path) for _ in range(2)], machine.processors()
    for worker in workers:
        assert not worker.take_place(0)  # not started yet
        worker.start(60.0, quiet)
    placed = [psutil.Process(worker.process.pid) for worker in workers if worker.process]
    for number in range(3):
        assert all(worker.take_place(number) for worker in workers)
        assert [one.cpu_affinity() for one in placed] == [[usable[number % len(usable)]]] * 2
    assert not workers[0].take_place(None)
    assert placed[0].cpu_affinity() == usable
    workers[1].setup = msgspec.structs.replace(workers[1].setup, threads=2)
    assert not workers[1].take_place(0)
    assert placed[1].cpu_affinity() == [usable[2 % len(usable)]]  # left alone
    for worker in workers:
        worker.close()
        assert not worker.take_place(0)


def test_a_cell_takes_turns_and_ends(tmp_path: Path) -> None:
    worker = client(tmp_path, "chatter")
    worker.start(60.0, quiet)
    opened = worker.ask(open_request(worker, 13), 60.0, quiet)
    assert isinstance(opened, protocol.Opened)
    assert opened.timed
    assert opened.warmup_seconds > 0
    turn = worker.ask(protocol.Block(3), 60.0, quiet)
    assert isinstance(turn, protocol.Done)
    assert {name: len(samples) for name, samples in turn.samples.items()} == dict.fromkeys(
        ("ttft", "prompt_rate", "peak_memory", "peak_memory_growth"), 3
    )
    assert turn.seconds * 1e3 >= sum(turn.samples["ttft"])
    assert turn.conditions.waited is not None
    result = worker.ask(protocol.Finish(), 60.0, quiet)
    worker.close()
    assert isinstance(result, protocol.Result)
    assert result.status == Status.PASSED
    assert result.metrics["ttft"].samples == turn.samples["ttft"]


def test_a_worker_that_does_not_answer_is_ended_with_its_children(tmp_path: Path) -> None:
    ticks: list[int] = []
    worker = client(tmp_path, "hang")
    worker.tick = lambda: ticks.append(1)
    worker.start(60.0, quiet)
    worker.ask(open_request(worker, 8), 60.0, quiet)
    assert worker.process is not None
    pid = worker.process.pid
    with pytest.raises(CellError) as caught:
        worker.ask(open_request(worker, 13), 1.5, quiet)
    assert caught.value.status == Status.TIMEOUT
    assert caught.value.reasons == ["the worker was ended at the time limit of 60 s (sampling.timeout)"]
    assert ticks
    assert not psutil.pid_exists(pid)


def test_a_worker_can_be_ended_by_hand(tmp_path: Path) -> None:
    """It is started while its parent holds signals back, which a child inherits."""
    worker = client(tmp_path)
    worker.start(60.0, quiet)
    assert worker.process is not None
    os.kill(worker.process.pid, signal.SIGTERM)
    with pytest.raises(CellError) as caught:
        worker.ask(open_request(worker, 8), 60.0, quiet)
    assert caught.value.reasons == ["the worker was killed by SIGTERM"]


def test_a_worker_that_hangs_while_loading_is_ended_too(tmp_path: Path) -> None:
    with pytest.raises(CellError) as caught:
        client(tmp_path, "load-hang").start(1.0, quiet)
    assert caught.value.status == Status.TIMEOUT


def test_a_worker_that_is_ended_while_it_is_being_started_does_not_live_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does while threads start workers: there is no process yet that could be ended."""
    worker, spawned = client(tmp_path), []
    spawn = worker._spawn

    def late(seconds: float) -> subprocess.Popen[bytes]:
        worker.close()
        spawned.append(spawn(seconds))
        return spawned[0]

    monkeypatch.setattr(worker, "_spawn", late)
    with pytest.raises(CellError) as caught:
        worker.start(60.0, quiet)
    assert caught.value.reasons == ["the worker was ended before it had started"]
    assert spawned[0].returncode is not None
    assert worker.process is None


def test_who_waits_for_a_worker_that_somebody_ends_learns_of_it_at_once(tmp_path: Path) -> None:
    worker = client(tmp_path, "hang")
    worker.start(60.0, quiet)
    worker.ask(open_request(worker, 8), 60.0, quiet)
    worker.tick = worker.close
    begun = time.monotonic()
    with pytest.raises(CellError) as caught:
        worker.ask(open_request(worker, 13), 60.0, quiet)
    assert caught.value.reasons == ["the worker was ended while it was asked"]
    assert time.monotonic() - begun < 30.0


@pytest.mark.parametrize(("evidence", "status"), [(True, Status.OOM), (False, Status.FAILED)])
def test_sigkill_is_out_of_memory_only_with_the_kernels_word_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: bool, status: Status
) -> None:
    worker = client(tmp_path)
    worker.start(60.0, quiet)
    before = machine.oom_kills()
    grown = {path: count + evidence for path, count in (before or {"memory.events": 0}).items()}
    monkeypatch.setattr(machine, "oom_kills", lambda: grown)
    assert worker.process is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(CellError) as caught:
        worker.ask(open_request(worker, 8), 60.0, quiet)
    assert caught.value.status == status
    assert ("killed by the kernel for memory" in caught.value.reasons[0]) == evidence
    assert not caught.value.answered


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), Status.OOM),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), Status.OOM),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), Status.OOM),
        (OSError(12, "Cannot allocate memory"), Status.OOM),
        (type("OutOfMemoryError", (RuntimeError,), {})("no more"), Status.OOM),
        (RuntimeError("shapes do not match"), Status.FAILED),
        (ValueError("the paper is out of memory range"), Status.FAILED),
        (SystemExit(3), Status.FAILED),
    ],
)
def test_exceptions_have_types(error: BaseException, status: Status) -> None:
    assert describe(error).status == status
