"""Rounds end when the answer is precise, or its time is spent; processes are restarted; disturbed blocks go again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.records.blocks import samples_by_block, samples_by_process
from harness.records.conditions import Conditions
from harness.records.record import Record, Status
from harness.run.rounds import FEWEST, Quota
from harness.suite.schema import Sampling
from tests.run.planted import PlantedRun, Turn, failing


def of(records: list[Record], kernels: str, length: int = 8) -> Record:
    (found,) = [one for one in records if one.variant.kernels == kernels and one.workload["length"] == length]
    return found


def rounds(record: Record) -> list[tuple[int, int]]:
    return [(block.process, block.round) for block in record.blocks]


def noisy(deviation: float, seed: int = 1) -> random.Random:
    """Draws relative errors."""
    return random.Random(f"{deviation} {seed}")


def test_a_quiet_cell_takes_the_fewest_rounds_that_can_show_it(tmp_path: Path) -> None:
    records = PlantedRun.of(tmp_path, ["sound", "slow"], [8], rounds=6).measure(lambda _: 5.0)
    assert rounds(of(records, "sound")) == [(process, number) for process in range(3) for number in range(FEWEST + 1)]
    assert of(records, "sound").metrics["ttft"].samples == [5.0] * 3 * (FEWEST + 1) * 3


def test_a_noisy_cell_goes_on_until_it_is_precise(tmp_path: Path) -> None:
    draw = noisy(0.1)
    (tmp_path / "few").mkdir()
    run = PlantedRun.of(tmp_path, ["sound"], [8], rounds=3, precision="2%", budget=1e6, samples=1)
    record = of(run.measure(lambda _: 100 * (1 + 0.1 * draw.gauss(0, 1))), "sound")
    assert 50 < len(record.blocks) < 200  # (1.96 * 10% / 2%)**2 is 96
    few = PlantedRun.of(tmp_path / "few", ["sound"], [8], rounds=3, precision="5%", budget=1e6, samples=1)
    assert len(of(few.measure(lambda _: 100 * (1 + 0.1 * draw.gauss(0, 1))), "sound").blocks) < len(record.blocks)


def test_drift_that_meets_both_sides_alike_needs_no_more_rounds(tmp_path: Path) -> None:
    """The ratio to the baseline is what somebody asked about, and it does not drift."""
    draw = noisy(0.3)
    levels = {(process, number): 100 * (1 + 0.3 * draw.random()) for process in range(3) for number in range(1000)}

    def drifting(turn: Turn) -> float:
        return levels[turn.start, turn.block] * (1.5 if turn.kernels == "slow" else 1.0)

    run = PlantedRun.of(tmp_path, ["sound", "slow"], [8], rounds=6, budget=20.0, samples=1)
    records = run.measure(drifting)
    assert len(of(records, "slow").blocks) == len(of(records, "sound").blocks)
    (tmp_path / "alone").mkdir()
    alone = PlantedRun.of(tmp_path / "alone", ["slow"], [8], rounds=6, budget=20.0, samples=1).measure(drifting)
    assert len(of(alone, "slow").blocks) > 2 * len(of(records, "slow").blocks)


def test_the_budget_ends_what_will_not_become_precise(tmp_path: Path) -> None:
    draw = noisy(0.5)
    run = PlantedRun.of(tmp_path, ["sound"], [8], budget=6.0, samples=2)
    record = of(run.measure(lambda _: 100 * (1 + 0.5 * draw.random())), "sound")
    spent = sum(block.seconds for block in record.blocks)
    # Warm-up counts; after the turn that spends it all, each process has its closing one.
    assert 6.0 + 3 * 0.2 <= spent + 3 * 0.25 < 6.0 + 3 * (0.3 + 0.3)


def test_no_budget_still_takes_the_rounds_that_were_asked_for(tmp_path: Path) -> None:
    run = PlantedRun.of(tmp_path, ["sound"], [8], rounds=4, restarts=1, budget=0)
    assert rounds(of(run.measure(lambda turn: 5.0 + turn.block), "sound")) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_max_rounds_ends_in_any_case(tmp_path: Path) -> None:
    draw = noisy(0.5)
    run = PlantedRun.of(tmp_path, ["sound"], [8], rounds=2, max_rounds=4, restarts=0, budget=1e6)
    assert len(of(run.measure(lambda _: 100 + 50 * draw.random()), "sound").blocks) == 4


def test_the_baseline_stays_for_those_that_are_still_imprecise(tmp_path: Path) -> None:
    draw = noisy(0.2)

    def one_sided(turn: Turn) -> float:
        return 10.0 if turn.kernels == "sound" else 10 * (1 + 0.2 * draw.random())

    run = PlantedRun.of(tmp_path, ["sound", "slow", "chatter"], [8], rounds=3, restarts=0, max_rounds=40)
    records = run.measure(lambda turn: 10.0 if turn.kernels == "chatter" else one_sided(turn))
    counts = {kernels: len(of(records, kernels).blocks) for kernels in ("sound", "slow", "chatter")}
    assert counts["sound"] == counts["slow"] > counts["chatter"] == FEWEST + 1


def test_the_last_round_is_for_all_and_on_inputs_of_its_own(tmp_path: Path) -> None:
    draw = noisy(0.2)
    run = PlantedRun.of(tmp_path, ["sound", "slow", "chatter"], [8], rounds=3, restarts=0, max_rounds=40, samples=2)
    records = run.measure(lambda turn: 10.0 if turn.kernels == "chatter" else 10 * (1 + 0.2 * draw.random()))
    assert run.workers is not None
    taken, closing = run.workers.inputs[:-3], run.workers.inputs[-3:]
    assert sorted(closing) == [("chatter", -2), ("slow", -2), ("sound", -2)]
    assert all(first >= 0 for _, first in taken)
    last = {of(records, kernels).blocks[-1].round for kernels in ("sound", "slow", "chatter")}
    assert last == {max(block.round for record in records for block in record.blocks)}


def test_workers_are_restarted_for_all_cells_together(tmp_path: Path) -> None:
    run = PlantedRun.of(tmp_path, ["sound", "slow"], [8, 16, 32], restarts=2)
    run.measure(lambda _: 5.0)
    assert run.workers is not None
    assert [line for line in run.workers.log if line.startswith("start")] == ["start sound", "start slow"] * 3


def test_samples_can_be_told_apart_by_process_and_round(tmp_path: Path) -> None:
    run = PlantedRun.of(tmp_path, ["sound", "slow"], [8], rounds=6, max_rounds=6, samples=2)
    record = of(run.measure(lambda turn: 100.0 * (turn.start + 1)), "slow")
    assert samples_by_process(record, "ttft") == [[100.0 * process] * 4 for process in (1, 2, 3)]
    assert samples_by_process(record, "cache_bytes") == [[64.0]]
    for block, samples in samples_by_block(record):
        assert samples == {"ttft": [100.0 * (block.process + 1)] * 2}
        assert block.position in (0, 1)


def test_disturbed_blocks_are_taken_again_and_marked(tmp_path: Path) -> None:
    def plant(turn: Turn) -> tuple[float, Conditions]:
        disturbed = turn.block == 1
        return (500.0 if disturbed else 5.0), Conditions(waited=0.4 if disturbed else 0.001)

    run = PlantedRun.of(tmp_path, ["sound"], [8], rounds=9, restarts=2, samples=1)
    record = of(run.measure(plant), "sound")
    assert record.metrics["ttft"].samples == [5.0] * 3 * (FEWEST + 1)
    dropped = [block for block in record.blocks if block.dropped]
    assert [(block.process, block.round) for block in dropped] == [(0, 1), (1, 1), (2, 1)]
    assert all(block.samples == {"ttft": [500.0]} for block in dropped)
    assert all(block.conditions.disturbances == ["waited for a processor: 40%"] for block in dropped)
    assert len(record.context["turns"]) == 3 * (FEWEST + 1)


def test_where_every_block_is_disturbed_all_count_and_are_marked(tmp_path: Path) -> None:
    run = PlantedRun.of(tmp_path, ["sound"], [8], rounds=3, budget=1.0, samples=1)
    record = of(run.measure(lambda _: (100.0, Conditions(stolen=0.2))), "sound")
    assert not any(block.dropped for block in record.blocks)
    assert all(block.conditions.disturbances for block in record.blocks)
    assert sum(block.seconds for block in record.blocks) < 1.5
    assert len(record.metrics["ttft"].samples) == len(record.blocks) >= 3


def test_a_process_that_fails_takes_the_whole_cells_timing_with_it(tmp_path: Path) -> None:
    def plant(turn: Turn) -> float:
        if turn.kernels == "slow" and turn.start == 1:
            raise failing("the worker was killed by SIGSEGV")
        return 5.0

    records = PlantedRun.of(tmp_path, ["sound", "slow"], [8, 16]).measure(plant)
    struck, other = of(records, "slow", 8), of(records, "slow", 16)
    assert (struck.status, struck.metrics, struck.blocks) == (Status.FAILED, {}, [])
    assert (other.status, of(records, "sound", 8).status) == (Status.PASSED, Status.PASSED)


@pytest.mark.parametrize("when", [0, 1, 2])
def test_an_interrupted_cell_goes_on_with_the_processes_that_it_lacks(tmp_path: Path, when: int) -> None:
    def interrupted(turn: Turn) -> float:
        if turn.start == when and turn.length == 16:
            raise KeyboardInterrupt
        return 5.0

    run = PlantedRun.of(tmp_path, ["sound", "slow"], [8, 16], rounds=3, max_rounds=3, samples=1)
    with pytest.raises(KeyboardInterrupt):
        run.measure(interrupted)
    records = run.measure(lambda _: 7.0)
    assert all(one.status == Status.PASSED for one in records)
    for record in records:
        assert len({block.process for block in record.blocks}) == 3
        former = when + 1 if record.workload["length"] == 8 else when
        assert sorted(record.metrics["ttft"].samples) == [5.0] * former + [7.0] * (3 - former)
        assert ("continues" in record.context) == (0 < former < 3)
        assert ("carried_over" in record.context) == (former == 3)
    assert run.workers is not None
    assert run.workers.starts == {"sound": 2 - when, "slow": 2 - when}


def test_time_is_booked_by_purpose(tmp_path: Path) -> None:
    run = PlantedRun.of(tmp_path, ["sound"], [8], rounds=30, samples=10, budget=0)
    run.measure(lambda _: 100.0)
    assert run.ledger is not None
    end = run.ledger.close(True)
    assert end.seconds == pytest.approx({"loading": 9.0, "setup": 1.5, "warmup": 0.75, "measured": 30.0, "checks": 1.5})
    assert end.measuring == pytest.approx(30.75 / 33.75, rel=1e-3)
    assert end.warming == pytest.approx(0.75 / 30.75, rel=1e-3)


def test_a_processs_share_of_the_sampling() -> None:
    quota = Quota.of(Sampling(rounds=7, max_rounds=12, samples=3, restarts=2, precision="1%", budget=9.0))
    assert (quota.least, quota.most, quota.seconds, quota.warmup_limit) == (3, 4, 3.0, 4)
    assert quota.reach == pytest.approx(0.01724, rel=1e-3)
    assert Quota.of(Sampling(rounds=2, max_rounds=2, restarts=4)).most == 1
    assert Quota.of(Sampling(rounds=3, samples=1, warmup=1)).least == 2  # no process warms up longer than it measures
