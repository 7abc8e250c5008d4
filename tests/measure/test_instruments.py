"""Clock, memory meter, prompts, stored answers and tolerances."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import UsageError
from harness.measure import answers
from harness.measure.clock import CpuClock, clock_for
from harness.measure.memory import MemoryMeter, memory_for
from harness.measure.prompts import Prompts, load_tokenizer

MIB = 2**20


class Bytewise:
    """A tokenizer with one token a byte."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return list(text.encode())


class Sparse(Bytewise):
    """A tokenizer with one token every ten characters."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
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


@pytest.mark.parametrize("tokenizer", [Bytewise(), Sparse()])
@pytest.mark.parametrize("length", [1, 17, 300])
def test_text_prompts_have_exactly_the_real_tokens_asked_for(tokenizer: Bytewise, length: int) -> None:
    tokens = Prompts("text", 0, 256, tokenizer).tokens(3, length, "timed 1")
    assert (tokens.shape, tokens.dtype) == ((3, length), torch.int64)


@pytest.mark.parametrize("context", ["text", "random"])
def test_prompts_follow_from_seed_and_purpose(context: str) -> None:
    def draw(seed: int, purpose: str) -> list[int]:
        return Prompts(context, seed, 256, Bytewise()).tokens(1, 64, purpose)[0].tolist()

    assert draw(0, "timed 1") == draw(0, "timed 1")
    assert draw(0, "timed 1") != draw(0, "timed 2")
    assert draw(0, "timed 1") != draw(1, "timed 1")


def test_text_is_marked_with_its_hash() -> None:
    assert len(Prompts("text", 0, 256, Bytewise()).facts()["text_sha256"]) == 64
    assert Prompts("random", 0, 256).facts() == {"context": "random"}


def test_text_without_a_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="allowed: random, synthetic"):
        load_tokenizer(str(tmp_path))


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
