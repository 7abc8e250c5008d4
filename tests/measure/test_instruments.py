"""Clock, memory meter, prompts, stored answers and tolerances."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch

from harness import corpus
from harness.errors import UsageError
from harness.measure import answers
from harness.measure.clock import CpuClock, OwnTimeClock, clock_for
from harness.measure.memory import MemoryMeter, memory_for
from harness.measure.prompts import Encode, Prompts, TextEncoder, load_tokenizer

MIB = 2**20


REFERENCE = Path(__file__).parents[2] / "suites" / "checkpoints" / "reference"


def bytewise(text: str) -> list[int]:
    """One token a byte."""
    return list(text.encode())


def sparse(text: str) -> list[int]:
    """One token every ten characters."""
    return list(text.encode()[::10])


def test_the_clock_times_the_call_and_returns_its_result() -> None:
    milliseconds, result = clock_for("cpu").time(lambda: "done")
    assert result == "done"
    assert milliseconds >= 0


def test_marks_are_in_milliseconds() -> None:
    assert CpuClock().between([1.0, 1.5, 1.75]) == [500.0, 250.0]


def test_peak_memory_sees_what_was_freed_again_and_forgets_it_on_reset() -> None:
    meter = memory_for("cpu")
    before = _peak_now(meter)
    torch.ones(64 * MIB // 4)
    peak = meter.peak() or 0
    after = _peak_now(meter)
    assert 60 * MIB < peak - before < 80 * MIB
    assert after - before < 10 * MIB


def test_released_memory_does_not_count_for_the_next_peak() -> None:
    meter = memory_for("cpu")
    pieces = [torch.ones(2**13) for _ in range(1600)]  # 50 MiB in pieces so small that they come from glibc's heap,
    full = _peak_now(meter)
    del pieces[:-1]  # and one at its top that keeps the heap from shrinking by itself
    meter.release()
    assert full - _peak_now(meter) > 30 * MIB


def _peak_now(meter: MemoryMeter) -> int:
    meter.reset()
    peak = meter.peak()
    assert peak is not None
    return peak


@pytest.mark.parametrize("encode", [bytewise, sparse])
@pytest.mark.parametrize("length", [1, 17, 300])
def test_text_prompts_have_exactly_the_real_tokens_asked_for(encode: Encode, length: int) -> None:
    tokens = Prompts("text", 0, 256, encode).tokens(3, length, "timed 1")
    assert (tokens.shape, tokens.dtype) == ((3, length), torch.int64)


@pytest.mark.parametrize("context", ["text", "random"])
def test_prompts_follow_from_seed_and_purpose(context: str) -> None:
    def draw(seed: int, purpose: str) -> list[int]:
        return Prompts(context, seed, 256, bytewise).tokens(1, 64, purpose)[0].tolist()

    assert draw(0, "timed 1") == draw(0, "timed 1")
    assert draw(0, "timed 1") != draw(0, "timed 2")
    assert draw(0, "timed 1") != draw(1, "timed 1")


def test_text_is_marked_with_its_hash() -> None:
    assert len(Prompts("text", 0, 256, bytewise).facts()["text_sha256"]) == 64
    assert Prompts("random", 0, 256).facts() == {"context": "random"}


@pytest.mark.parametrize("load", [load_tokenizer, TextEncoder])
def test_text_without_a_tokenizer_is_a_clear_error(tmp_path: Path, load: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match="allowed: random, synthetic"):
        load(str(tmp_path))


def test_prompts_are_encoded_as_transformers_does(tmp_path: Path) -> None:
    text = corpus.held_out_text(2000, 3) + "\n\tümlaut <s> 漢字 "
    ids = load_tokenizer(str(REFERENCE)).encode(text, add_special_tokens=False)
    assert len(ids) > 400
    assert TextEncoder(str(REFERENCE))(text) == ids
    cut = tokenizers.Tokenizer.from_file(str(REFERENCE / "tokenizer.json"))
    cut.enable_truncation(7)
    cut.enable_padding(length=9)
    cut.save(str(tmp_path / "tokenizer.json"))
    assert TextEncoder(str(tmp_path))(text) == ids
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UsageError):
        TextEncoder(str(tmp_path))


def test_stored_answers_come_back_bit_for_bit(tmp_path: Path) -> None:
    answer = {"logits": torch.randn(3, 5), "tokens": torch.tensor([[1, 2]])}
    answers.store(tmp_path, "t:prefill[]:a", answer)
    back = answers.load(tmp_path, "t:prefill[]:a")
    assert back is not None
    assert all(torch.equal(back[name], answer[name]) for name in answer)
    assert answers.load(tmp_path, "t:prefill[]:b") is None


def test_row_errors_by_hand() -> None:
    assert answers.row_errors(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [2.0, 0.0]])) == [
        0,
        0.5,
    ]


# --- own time ---------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An `OwnTimeClock` on planted counters, in seconds."""
    now = SimpleNamespace(wall=0.0, waited=0.0, process=0.0, thread=0.0, reads=[])
    file = tmp_path / "schedstat"

    def write() -> None:
        file.write_text(f"1 {round(now.waited * 1e9)} 1\n")

    def wall() -> float:
        if now.reads:
            now.waited += now.reads.pop(0)  # loses its processor between the clocks
            write()
        return float(now.wall)

    write()
    monkeypatch.setattr("harness.measure.clock.time.perf_counter", wall)
    monkeypatch.setattr("harness.measure.clock.time.process_time", lambda: now.process)
    monkeypatch.setattr("harness.measure.clock.time.thread_time", lambda: now.thread)
    now.write, now.clock = write, OwnTimeClock(file)
    return now


@pytest.mark.parametrize(
    ("wall", "waited", "own_work", "others_work", "expected"),
    [
        (1.0, 0.0, 1.0, 0.0, 1000.0),
        (1.0, 0.6, 0.4, 0.0, 400.0),  # others had the processor
        (1.0, 0.0, 0.2, 0.0, 1000.0),  # it slept, or waited for a disk or a lock
        (1.0, 0.6, 0.4, 0.6, 1000.0),  # its own threads had the processor
        (1.0, 0.6, 0.4, 0.2, 600.0),
    ],
)
def test_only_waiting_for_other_processes_is_left_out(
    own: SimpleNamespace, wall: float, waited: float, own_work: float, others_work: float, expected: float
) -> None:
    def call() -> None:
        own.wall += wall
        own.waited += waited
        own.thread += own_work
        own.process += own_work + others_work
        own.write()

    milliseconds, _ = own.clock.time(call)
    assert milliseconds == pytest.approx(expected)


def test_a_processor_lost_between_the_clocks_is_noticed(own: SimpleNamespace) -> None:
    own.reads = [0.5, 0.0]
    mark = own.clock.mark()
    assert mark.waited == 0.5
    assert own.reads == []


def test_own_time_is_what_a_busy_neighbour_does_not_change() -> None:
    if not isinstance(clock_for("cpu", own_time=True), OwnTimeClock):
        pytest.skip("this kernel does not tell how long a thread waits")

    def work() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass

    former, processor = os.sched_getaffinity(0), min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processor})
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        wall, _ = clock_for("cpu").time(work)
        own, _ = clock_for("cpu", own_time=True).time(work)
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, former)
    assert wall > 250
    assert 190 < own < 215


def test_where_the_kernel_tells_nothing_the_wall_clock_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.measure.clock.OwnTimeClock", lambda: (_ for _ in ()).throw(FileNotFoundError()))
    assert isinstance(clock_for("cpu", own_time=True), CpuClock)
