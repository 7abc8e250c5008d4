"""Timed measurements: what is timed, on what inputs, and when a number may not be given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contract.runner import State, module_bytes
from harness.measure.measurement import Measurement, open_measurement
from harness.records.record import Status
from harness.suite.cell import CellId
from harness.suite.schema import Decode, Generate, Prefill, Workload
from tests.measure.fakes import DENSE, DSA, MQA, VOCAB, FakeRunner, PlantedClock, bench, cell, greedy

PREFILL = Prefill(length=16, batch=2, context="random")
DECODE = Decode(length=16, batch=2, context="synthetic", steps=3)
GENERATE = Generate(length=16, batch=2, context="random", new_tokens=4)
WORKLOADS = [PREFILL, DECODE, GENERATE]


def opened(workload: Workload, folder: Path, variant: Any = DENSE, **kwargs: Any) -> Any:
    kind = type(workload).__struct_config__.tag
    return open_measurement(workload, bench(folder, **kwargs), cell(kind, variant))


def finished(workload: Workload, folder: Path, variant: Any = DENSE, **kwargs: Any) -> Any:
    measurement = opened(workload, folder, variant, **kwargs)
    measurement.warm_up()
    measurement.block()
    return measurement.finish()


def reference(workload: Workload, folder: Path, variant: Any = DENSE) -> CellId:
    """Run the reference cell, so that its answer is stored."""
    assert finished(workload, folder, variant).status == Status.PASSED
    return cell(type(workload).__struct_config__.tag, variant)


# --- what is timed --------------------------------------------------------------------------------


def test_prefill_samples_are_one_prompt_batch_each(tmp_path: Path) -> None:
    measurement = opened(PREFILL, tmp_path)
    measurement.clock = PlantedClock([0, 999, 0, 20, 0, 40])
    measurement.warm_up()
    measurement.block()
    measurement.block()
    metrics = measurement.finish().metrics
    assert metrics["ttft"].samples == [20, 40]
    assert metrics["prompt_rate"].samples == [1600, 800]  # 2 sequences of 16 tokens in 20 and in 40 ms


def test_decode_samples_are_single_steps_at_constant_lengths(tmp_path: Path) -> None:
    runner = FakeRunner()
    measurement = opened(DECODE, tmp_path, runner=runner)
    measurement.clock = PlantedClock([0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0, 10])
    measurement.block()
    measurement.block()
    metrics = measurement.finish().metrics
    assert metrics["tpot"].samples == [5, 6, 7, 8, 9, 10]
    assert len(measurement.clock.settled_at) == 9  # every step, those of the check included
    assert metrics["output_rate"].samples[0] == 400
    assert runner.lengths == [16, 17, 18] * 3


def test_a_captured_graph_is_what_is_timed_and_the_record_says_so(tmp_path: Path) -> None:
    class Captured(FakeRunner):
        replays = 0

        def replayed_decode(self, state: State) -> Any:
            def replay(tokens_B: torch.Tensor) -> torch.Tensor:
                self.replays += 1
                return self.decode(tokens_B, state)

            return replay

    runner = Captured()
    outcome = finished(DECODE, tmp_path, runner=runner)
    assert outcome.context["cuda_graph"] == "replayed"
    assert runner.replays == len(runner.lengths) == 9  # warm-up, timed, check
    assert "cuda_graph" not in finished(DECODE, tmp_path).context


def test_generate_splits_first_token_from_the_others(tmp_path: Path) -> None:
    measurement = opened(GENERATE, tmp_path)
    measurement.clock = PlantedClock([0, 30, 4, 5, 6])
    measurement.block()
    assert measurement.clock.settled_at == [0]  # once, before the first mark: decoding steps are not held up
    metrics = measurement.finish().metrics
    assert metrics["ttft"].samples == [30]
    assert metrics["tpot"].samples == [5]
    assert metrics["output_rate"].samples == [pytest.approx(8 / 0.045)]


def test_one_new_token_has_no_time_per_output_token(tmp_path: Path) -> None:
    tpot = finished(Generate(length=16, batch=2, context="random", new_tokens=1), tmp_path).metrics["tpot"]
    assert tpot.withheld == "no sample was taken"
    assert tpot.value is None


def test_chunked_prefill_feeds_the_same_tokens(tmp_path: Path) -> None:
    runner = FakeRunner()
    opened(Prefill(length=16, batch=2, context="random", chunk=6), tmp_path, runner=runner).block()
    assert [list(chunk.shape) for chunk in runner.prompts] == [[2, 6], [2, 6], [2, 4]]
    whole = FakeRunner()
    opened(PREFILL, tmp_path, runner=whole).block()
    assert torch.equal(torch.cat(runner.prompts, dim=1), whole.prompts[0])


# --- the inputs -----------------------------------------------------------------------------------


def test_no_row_and_no_repetition_sees_a_prompt_twice(tmp_path: Path) -> None:
    runner = FakeRunner()
    finished(PREFILL, tmp_path, runner=runner)
    rows = torch.cat(runner.prompts)
    assert len({tuple(row.tolist()) for row in rows}) == len(rows) == 6  # warm-up, timed, a check, of two rows


def test_variants_see_the_same_prompts(tmp_path: Path) -> None:
    runners = [FakeRunner(), FakeRunner()]
    for runner, variant in zip(runners, (DENSE, MQA), strict=True):
        finished(PREFILL, tmp_path, variant, runner=runner)
    for one, other in zip(runners[0].prompts, runners[1].prompts, strict=True):
        assert torch.equal(one, other)


# --- the check after timing -----------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS)
def test_equal_answers_pass_and_say_what_they_were_held_against(workload: Workload, tmp_path: Path) -> None:
    base = reference(workload, tmp_path)
    outcome = finished(workload, tmp_path, MQA, reference=base)
    assert outcome.status == Status.PASSED
    assert outcome.context["held_against"] == base.id
    assert outcome.metrics["rel_l2_vs_reference"].value == 0


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("variant", [MQA, DSA])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda logits: logits.roll(1, -1),
        lambda logits: logits + 1,
        lambda logits: torch.zeros_like(logits),
        lambda logits: logits.index_fill(-1, torch.tensor([5]), float("nan")),
        lambda logits: logits.index_fill(-1, torch.tensor([5]), float("-inf")),
    ],
    ids=["order", "offset", "zeros", "nan", "inf"],
)
def test_a_wrong_answer_is_incorrect_and_has_no_numbers(
    workload: Workload, variant: Any, spoil: Any, tmp_path: Path
) -> None:
    base = reference(workload, tmp_path, variant.with_options({"form": "mha"}))
    outcome = finished(workload, tmp_path, variant, runner=FakeRunner(spoil), reference=base)
    assert outcome.status == Status.INCORRECT
    assert outcome.reasons
    for name, metric in outcome.metrics.items():
        assert (metric.value is None) == (name != "rel_l2_vs_reference"), name


def test_a_stale_cache_is_incorrect(tmp_path: Path) -> None:
    class Stale(FakeRunner):
        """Answers the first prompt for ever."""

        answer = None

        def prefill(self, tokens_BT: Any, state: Any, lengths_B: Any = None) -> torch.Tensor:
            logits_BV = super().prefill(tokens_BT, state, lengths_B)
            self.answer = logits_BV if self.answer is None else self.answer
            return self.answer

    outcome = finished(PREFILL, tmp_path, MQA, runner=Stale(), reference=reference(PREFILL, tmp_path))
    assert outcome.status == Status.INCORRECT


class SpoiledOnce(FakeRunner):
    """Answers one call wrongly; calls are counted from 1."""

    def __init__(self, wrong: int) -> None:
        super().__init__(lambda logits: -logits if len(self.prompts) == wrong else logits)


def answered(folder: Path, variant: Any, runner: FakeRunner, turns: Sequence[int], **kwargs: Any) -> Any:
    """A cell with one prompt a turn, after one warm-up and turns on these inputs."""
    measurement = opened(Prefill(length=16, batch=1, context="random"), folder, variant, runner=runner, **kwargs)
    measurement.warm_up()
    for number in turns:
        assert measurement.block(number)["ttft"]
    return measurement.finish()


@pytest.mark.parametrize("wrong", [2, 3, 4, 5])
def test_prompts_that_were_timed_are_judged_and_one_that_was_not(tmp_path: Path, wrong: int) -> None:
    """Calls: warm-up, three timed ones of which the first two are kept, and one after them."""
    runner = SpoiledOnce(wrong)
    answered(tmp_path, DENSE, FakeRunner(), [70, 71, 72])
    outcome = answered(tmp_path, MQA, runner, [70, 71, 72], reference=cell("prefill"))
    assert len(runner.prompts) == 5
    assert outcome.status == (Status.PASSED if wrong == 4 else Status.INCORRECT)


@pytest.mark.parametrize("wrong", [2, 3, 4, 5])
def test_where_a_turn_closes_no_call_is_made_for_the_check_alone(tmp_path: Path, wrong: int) -> None:
    """Calls: warm-up, three timed ones, the closing one; the reference has taken fewer turns before it closed."""
    base, runner = FakeRunner(), SpoiledOnce(wrong)
    answered(tmp_path, DENSE, base, [0, 1, -1])
    outcome = answered(tmp_path, MQA, runner, [0, 1, 2, -1], reference=cell("prefill"))
    assert (len(base.prompts), len(runner.prompts)) == (4, 5)
    assert torch.equal(base.prompts[-1], runner.prompts[-1])
    assert outcome.status == (Status.PASSED if wrong == 4 else Status.INCORRECT)


def test_a_reference_that_only_answers_is_met_on_its_own_prompts(tmp_path: Path) -> None:
    workload = Prefill(length=16, batch=1, context="random")
    asked, runner = FakeRunner(), FakeRunner()
    assert opened(workload, tmp_path, runner=asked).finish().status == Status.PASSED
    assert finished(workload, tmp_path, MQA, runner=runner, reference=cell("prefill")).status == Status.PASSED
    for own, other in zip(asked.prompts, runner.prompts[-3:], strict=True):
        assert torch.equal(own, other)


def test_a_reference_with_nan_is_incorrect_and_stores_nothing(tmp_path: Path) -> None:
    outcome = finished(PREFILL, tmp_path, runner=FakeRunner(lambda logits: logits * float("nan")))
    assert outcome.status == Status.INCORRECT
    assert not list(tmp_path.iterdir())


def test_a_missing_reference_is_said(tmp_path: Path) -> None:
    outcome = finished(PREFILL, tmp_path, MQA, reference=cell("prefill"))
    assert outcome.status == Status.PASSED
    assert "stored no answer" in outcome.context["held_against"]
    assert "rel_l2_vs_reference" not in outcome.metrics


def test_one_swapped_row_does_not_condemn_a_sparse_selector_but_a_dense_one(tmp_path: Path) -> None:
    def spoil_one_row() -> Any:
        seen: list[int] = []

        def spoil(logits: torch.Tensor) -> torch.Tensor:
            seen.append(1)
            return logits * (1.05 if len(seen) == 3 else 1)  # calls: warm-up, timed, then two checks

        return spoil

    workload = Prefill(length=16, batch=1, context="random")
    statuses = {}
    for variant in (DENSE, DSA):
        base = reference(workload, tmp_path, variant.with_options({"form": "mha"}))
        candidate = variant.with_options({"form": "mqa"})
        outcome = finished(workload, tmp_path, candidate, runner=FakeRunner(spoil_one_row()), reference=base)
        statuses[variant.selector] = outcome.status
    assert statuses == {"dense": Status.INCORRECT, "dsa": Status.PASSED}


def test_generated_tokens_must_be_greedy_by_their_own_logits(tmp_path: Path) -> None:
    def sloppy(*args: Any, **kwargs: Any) -> list[list[int]]:
        rows = greedy(*args, **kwargs)
        rows[1][-1] = (rows[1][-1] + 1) % VOCAB
        return rows

    base = reference(GENERATE, tmp_path)
    outcome = finished(GENERATE, tmp_path, MQA, reference=base, decode=sloppy)
    assert outcome.status == Status.INCORRECT
    assert "sequences [1]" in outcome.reasons[0]


# --- withheld -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("how", ["emulated", "interpreted"])
def test_what_was_not_real_is_not_timed(workload: Workload, how: str, tmp_path: Path) -> None:
    runner = FakeRunner(resolved={"attention": f"triton ({how})", "norm": "eager"})
    outcome = finished(workload, tmp_path, runner=runner)
    assert outcome.status == Status.PASSED
    for name in type(opened(workload, tmp_path)).timing:
        assert outcome.metrics[name].withheld == f"not timed: attention is triton ({how})"
    assert outcome.metrics["cache_bytes"].value is not None


def test_sizes_are_exact(tmp_path: Path) -> None:
    metrics = finished(PREFILL, tmp_path).metrics
    assert metrics["cache_bytes_per_token"].value == 32
    assert metrics["cache_bytes"].value == 2 * 16 * 32
    assert metrics["weight_bytes"].value == 2 * VOCAB * 8 * 4


def test_weights_of_a_module_count_once_each() -> None:
    first, head = torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(4, 3, bias=False)
    head.weight = first.weight
    module = torch.nn.ModuleList([first, head])
    module.register_buffer("scale", torch.zeros(5))
    assert module_bytes(module) == (12 + 5) * 4


def test_untimed_kinds_refuse_a_clock() -> None:
    class Untimed(Measurement):
        timed = False

        def finish(self) -> Any:
            raise AssertionError

    for method in (Untimed.warm_up, Untimed.block):
        with pytest.raises(NotImplementedError, match="not timed"):
            method(Untimed(PREFILL, None, None))  # type: ignore[arg-type]
