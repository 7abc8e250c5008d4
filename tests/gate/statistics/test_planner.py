"""The planner finds the noise that was planted, and what it promises comes true in simulated gates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import UsageError
from harness.gate.statistics.planner import Noise, design_for, documents_for, smallest_effect, time_need
from harness.gate.statistics.sequential import VISIT_SIZES, decide
from harness.gate.verdict import Verdict
from harness.records.metrics import metric
from harness.records.record import Block, Record, Status
from harness.suite.variant import Variant

VARIANT = Variant("native", "mha", "dense", "fp32", "latent", "eager", "plain")


def record(log_times: np.ndarray, dropped: int | None = None) -> Record:
    """Three samples a turn, all at the turn's log time [process, round]; one block may be dropped."""
    blocks, samples = [], []
    for process, turns in enumerate(log_times):
        for number, log in enumerate(turns):
            taken = [math.exp(log)] * 3
            out = process == 0 and number == dropped
            kept = {"samples": {"ttft": taken}, "dropped": True} if out else {}
            blocks.append(Block(process, number, 0, 0.05, {"ttft": 3}, **kept))
            samples += [] if out else taken
    metrics = {"ttft": metric("ttft", samples)}
    return Record("t:prefill[]:v", "t", VARIANT, {"kind": "prefill"}, Status.PASSED, metrics=metrics, blocks=blocks)


def two_records(pair: float, process: float, processes: int = 60, rounds: int = 9) -> tuple[Record, Record]:
    """Two cells that took turns on a drifting machine: noise of their ratio as given."""
    rng = np.random.default_rng(13)
    drift = np.cumsum(rng.normal(0, 0.05, processes))[:, None] + 0.01 * np.arange(rounds)
    centre = rng.normal(0, process, (processes, 1))
    base, new = (drift + rng.normal(0, pair / math.sqrt(2), (processes, rounds)) for _ in range(2))
    return record(base), record(new + centre)


# --- noise ----------------------------------------------------------------------------------------------


def test_the_planted_noise_is_found_beside_another_cell() -> None:
    base, new = two_records(pair=0.02, process=0.01)
    noise = Noise.of(new, "ttft", base)
    assert noise is not None
    assert noise.pair == pytest.approx(0.02, rel=0.1)
    assert noise.process == pytest.approx(math.hypot(0.01, 0.02 * 1.25 / 3), rel=0.2)
    assert noise.turn_seconds == 0.05


def test_alone_neighbouring_turns_stand_for_pairs_and_drift_does_not_count() -> None:
    _, new = two_records(pair=0.02, process=0.3)
    noise = Noise.of(new, "ttft", None)
    assert noise is not None
    assert noise.pair == pytest.approx(0.02, rel=0.2)
    assert noise.process == 0.0


def test_a_dropped_block_is_not_noise() -> None:
    times = np.zeros((1, 8))
    times[0, 3] = 5.0
    noise = Noise.of(record(times, dropped=3), "ttft", None)
    assert noise == Noise(0.0, 0.0, 0.05)


@pytest.mark.parametrize("rounds", [1, 3])
def test_too_few_turns_tell_nothing(rounds: int) -> None:
    assert Noise.of(record(np.zeros((1, rounds))), "ttft", None) is None


# --- times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.01, 0.03])
def test_what_it_promises_comes_true(deviation: float) -> None:
    design = design_for(0.05, cells=10).paced(0.1)
    need = time_need(Noise(deviation, 0.0, 0.1), design)
    assert need.changed_pairs is not None
    rng = np.random.default_rng(2)
    found, passed = 0, []
    for _ in range(200):
        slow = math.log1p(0.05) + deviation * rng.standard_normal(design.cap)
        ended = _verdict(slow, design, need.changed_pairs)
        found += ended == Verdict.REGRESSION
        passed.append(_pairs_until(deviation * rng.standard_normal(design.cap), design))
    assert found >= 0.9 * 200
    assert np.mean(passed) == pytest.approx(need.unchanged_pairs, rel=0.25)
    assert need.changed_seconds == pytest.approx(0.2 * need.changed_pairs)


def _split(log_ratios: np.ndarray) -> list[np.ndarray]:
    """As visits of 12 pairs and longer ones would."""
    return [part for part in np.split(log_ratios, np.cumsum([12 * size for size in VISIT_SIZES])) if len(part)]


def _verdict(log_ratios: np.ndarray, design, pairs: int):
    for look in design.looks:
        if look <= pairs and (decision := decide(_split(log_ratios[:look]), design)):
            return decision.verdict
    return None


def _pairs_until(log_ratios: np.ndarray, design) -> int:
    return next(look for look in design.looks if decide(_split(log_ratios[:look]), design))


def test_more_noise_and_smaller_effects_need_more() -> None:
    pairs = [time_need(Noise(noise, 0.0, 0.1), design_for(0.05, 10)).unchanged_pairs for noise in (0.01, 0.03, 0.06)]
    assert pairs == sorted(pairs)
    changed = [time_need(Noise(0.02, 0.0, 0.1), design_for(effect, 10)).changed_pairs for effect in (0.1, 0.05, 0.02)]
    assert None not in changed
    assert changed == sorted(changed)


def test_beyond_the_cap_there_is_no_number() -> None:
    need = time_need(Noise(0.3, 0.0, 0.1), design_for(0.02, 10))
    assert need.changed_pairs is None
    assert need.changed_seconds is None


def test_processes_that_differ_ask_for_restarts() -> None:
    design = design_for(0.05, 10)
    needs = [time_need(Noise(0.01, process, 0.1), design).processes for process in (0.0, 0.02, 0.04)]
    assert needs[0] == design.processes
    assert needs[0] < needs[1] < needs[2]
    assert time_need(Noise(0.01, 2.0, 0.1), design).processes is None


def test_the_smallest_effect_is_the_first_that_the_cap_shows() -> None:
    noise = Noise(0.05, 0.0, 0.1)
    smallest = smallest_effect(noise, 10)
    assert smallest is not None
    assert time_need(noise, design_for(smallest, 10)).changed_pairs
    assert not time_need(noise, design_for(smallest - 0.001, 10)).changed_pairs
    assert smallest_effect(Noise(10.0, 0.0, 0.1), 10) is None


@pytest.mark.parametrize("effect", [0.0, 1.0, -0.1])
def test_effects_that_cannot_be_are_refused(effect: float) -> None:
    with pytest.raises(UsageError, match="--detect"):
        design_for(effect, 10)


# --- documents ------------------------------------------------------------------------------------------


def document(number: int, right: bool) -> dict:
    return {"task": "t", "doc_id": number, "filter": "none", "doc_hash": str(number), "scores": {"acc": float(right)}}


def test_documents_follow_from_how_many_flip() -> None:
    """n = (1.645 + 1.645)^2 q / d^2: 4,329 documents for half a point at 1% discordant ones."""
    base = [document(number, True) for number in range(2000)]
    half = [document(number, number % 2 == 0) for number in range(20)]
    flipped = [document(number, number % 2 == 1) for number in range(20)]
    needed = documents_for(half + base[20:], flipped + base[20:], "acc", "higher", 0.005, 0.05, 0.05)
    assert needed == pytest.approx(4329, rel=0.01)


def test_documents_that_are_not_the_same_cannot_be_planned_with() -> None:
    with pytest.raises(UsageError, match="lacks"):
        documents_for([document(1, True), document(2, True)], [document(1, True)], "acc", "higher", 0.01, 0.05, 0.05)
