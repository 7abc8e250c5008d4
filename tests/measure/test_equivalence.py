"""Equivalence metrics by hand values, and who is compared with whom."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from harness.measure.equivalence import compare, divergences
from harness.measure.greedy import first_differences, forced_logits
from harness.measure.measurement import Outcome, open_measurement
from harness.records.record import Status
from harness.suite.schema import Equivalence
from tests.measure.fakes import DSA, FakeRunner, bench, cell, greedy

WORKLOAD = Equivalence(length=16, batch=2, context="random", new_tokens=5)


def finish(folder: Path, runner: FakeRunner | None = None, against_baseline: bool = True) -> Outcome:
    variant, reference = (DSA, cell("equivalence")) if against_baseline else (cell("equivalence").variant, None)
    there = bench(folder, runner, reference)
    return open_measurement(WORKLOAD, there, cell("equivalence", variant)).finish()


def test_the_baseline_stores_its_outputs_and_gets_no_metrics(tmp_path: Path) -> None:
    outcome = finish(tmp_path, against_baseline=False)
    assert (outcome.status, outcome.metrics) == (Status.PASSED, {})
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_model_is_equivalent_to_itself(tmp_path: Path) -> None:
    finish(tmp_path, against_baseline=False)
    values = {name: metric.value for name, metric in finish(tmp_path).metrics.items()}
    assert values == {"logits_rel_l2": 0, "kl": 0, "top1_agreement": 1, "first_difference": 5}


def test_a_fault_shows_in_every_metric(tmp_path: Path) -> None:
    finish(tmp_path, against_baseline=False)
    values = {name: metric.value for name, metric in finish(tmp_path, FakeRunner(lambda x: -x)).metrics.items()}
    assert values["logits_rel_l2"] == pytest.approx(2)
    assert values["kl"] > 0.1
    assert values["top1_agreement"] < 0.2
    assert values["first_difference"] == 0


def test_nan_is_incorrect(tmp_path: Path) -> None:
    finish(tmp_path, against_baseline=False)
    outcome = finish(tmp_path, FakeRunner(lambda x: x * float("nan")))
    assert (outcome.status, outcome.metrics) == (Status.INCORRECT, {})


def test_without_the_baseline_the_cell_is_skipped_with_the_reason(tmp_path: Path) -> None:
    outcome = finish(tmp_path)
    assert outcome.status == Status.SKIPPED
    assert "stored no outputs" in outcome.reasons[0]


def test_kl_by_hand() -> None:
    baseline = torch.tensor([[[math.log(0.5), math.log(0.5)]]])
    variant = torch.tensor([[[math.log(0.25), math.log(0.75)]]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergences(variant, baseline) == [pytest.approx(expected, rel=1e-6)]


def test_kl_covers_all_positions_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 300, 5, generator=generator), torch.randn(2, 300, 5, generator=generator)
    values = divergences(one, other)
    assert len(values) == 600
    assert values[300] == pytest.approx(divergences(one[1:, :1], other[1:, :1])[0])


def test_relative_l2_is_one_number_a_sequence() -> None:
    baseline = torch.ones(2, 4, 9)
    own = baseline.clone()
    own[1] *= 1.5
    assert compare({"logits": own}, {"logits": baseline})["logits_rel_l2"].samples == [0, pytest.approx(0.5)]


def test_first_differences_count_the_tokens_before() -> None:
    own = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    other = torch.tensor([[1, 2, 3], [9, 2, 9], [1, 2, 9]])
    assert first_differences(own, other) == [3, 0, 2]


def test_forced_logits_of_the_own_greedy_answer_choose_that_answer() -> None:
    runner, prompts = FakeRunner(), torch.randint(37, (2, 8), generator=torch.Generator().manual_seed(1))
    answer = torch.tensor(greedy(runner, prompts, None, 6, ()))
    state, logits = forced_logits(runner, prompts, answer)
    assert torch.equal(logits.argmax(-1), answer)
    assert state.lengths_B.tolist() == [13, 13]
