"""Which worker gets another chance, and which does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.records.record import Status
from harness.run import workers as module
from harness.run.client import CellError
from harness.run.workers import Workers
from harness.suite.variant import Variant

VARIANT = Variant("fake", "mha", "dense", "fp32", "latent", "sound", "fake")


class StubClient:
    """Starts as the test plans, and counts."""

    started = 0
    ends: Callable[[int], CellError | None] = staticmethod(lambda _: None)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.alive = True

    def start(self, *_: Any) -> None:
        type(self).started += 1
        error = type(self).ends(type(self).started)
        if error is not None:
            raise error

    def close(self) -> None:
        self.alive = False


class Bunch:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[StubClient]:
    fresh = type("Fresh", (StubClient,), {"started": 0})
    monkeypatch.setattr(module, "WorkerClient", fresh)
    monkeypatch.setattr(Workers, "_setup", lambda *_: None)
    return fresh


@pytest.fixture
def workers(stub: type[StubClient], tmp_path: Path) -> Workers:
    advanced: list[float] = []
    progress: Any = Bunch(advance=advanced.append, advanced=advanced, tick=lambda: None)
    table: Any = Bunch(
        name="t", starts={VARIANT: 1}, environments={}, load_seconds={VARIANT: 5.0}, sampling=Bunch(timeout=9.0)
    )
    plan: Any = None
    return Workers(plan, table, tmp_path, progress)


def get(workers: Workers) -> Any:
    return workers.get(VARIANT, 1.0, lambda *_: None)


def test_a_worker_is_started_once(workers: Workers, stub: type[StubClient]) -> None:
    assert get(workers) is get(workers)
    assert stub.started == 1
    assert workers.progress.advanced == [5.0]


def test_a_dropped_or_dead_worker_is_replaced(workers: Workers, stub: type[StubClient]) -> None:
    first = get(workers)
    workers.drop(VARIANT)
    assert not first.alive
    second = get(workers)
    workers.drop_dead(VARIANT)
    assert get(workers) is second
    second.alive = False
    workers.drop_dead(VARIANT)
    assert get(workers) is not second
    assert stub.started == 3
    assert workers.progress.advanced == [5.0]  # the estimate knew of the first start alone


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (CellError(Status.FAILED, ["ValueError: no"], answered=True), 1),
        (CellError(Status.OOM, ["no memory"], answered=True), 1),
        (CellError(Status.TIMEOUT, ["was ended"]), 1),
        (CellError(Status.FAILED, ["was killed by SIGSEGV"]), 3),
    ],
)
def test_what_is_sure_to_fail_again_is_not_tried_again(
    workers: Workers, stub: type[StubClient], error: CellError, tries: int
) -> None:
    stub.ends = staticmethod(lambda _: error)
    for _ in range(3):
        with pytest.raises(CellError) as caught:
            get(workers)
        assert caught.value.reasons == [f"while loading the model: {error.reasons[0]}"]
        assert caught.value.status == error.status
    assert stub.started == tries


def test_a_crash_while_loading_gets_another_chance(workers: Workers, stub: type[StubClient]) -> None:
    stub.ends = staticmethod(lambda start: CellError(Status.FAILED, ["gone"]) if start == 1 else None)
    with pytest.raises(CellError):
        get(workers)
    assert get(workers).alive


def test_reasons_why_a_variant_is_unsupported_are_kept_as_they_are(workers: Workers, stub: type[StubClient]) -> None:
    stub.ends = staticmethod(lambda _: CellError(Status.UNSUPPORTED, ["one", "two"], answered=True))
    with pytest.raises(CellError) as caught:
        get(workers)
    assert caught.value.reasons == ["one", "two"]


def test_bad_input_ends_the_run(workers: Workers, stub: type[StubClient]) -> None:
    stub.ends = staticmethod(lambda _: CellError(Status.FAILED, ["a tensor is missing"], usage=True, answered=True))
    with pytest.raises(UsageError, match="a tensor is missing"):
        get(workers)
