"""Times of two stored runs: mostly undecided, and right when they are not."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.gate.compare import compare
from harness.gate.measured import open_run
from harness.gate.statistics.units import Units, welch
from harness.gate.verdict import Finding, GateReport, Verdict
from harness.records.conditions import Conditions
from harness.records.metrics import metric
from harness.records.record import Block
from tests.gate.sides import MHA, finding, judged, record, rules, run

TTFT = {"metrics": "ttft", "limit": "relative"}
RATE = {"metrics": "output_rate", "limit": "relative"}
MEMORY = {"metrics": "peak_memory", "limit": "relative", "tolerate": "2%", "catch": "10%"}
STEADY = [100.0, 100.2, 99.9, 100.1, 99.8, 100.0]


def compared(
    folder: Path, base: Sequence[float], new: Sequence[float], rule: dict[str, Any] = TTFT, **section: Any
) -> Finding:
    sides = [run(folder, [record("prefill", MHA, {rule["metrics"]: values}, length=8)]) for values in (base, new)]
    return finding(judged(*sides, rules(rule, **section)), rule["metrics"])


def scaled(factor: float) -> list[float]:
    return [factor * value for value in STEADY]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.0, "inconclusive"), (1.08, "inconclusive"), (1.5, "regression"), (0.5, "improvement"), (0.8, "improvement")],
)
def test_only_what_no_drift_explains_is_called(tmp_path: Path, factor: float, verdict: str) -> None:
    found = compared(tmp_path, STEADY, scaled(factor))
    assert found.verdict == verdict
    assert found.timed
    assert found.estimate == pytest.approx(factor)


def test_what_is_undecided_says_why_and_what_to_do(tmp_path: Path) -> None:
    (reason,) = compared(tmp_path, STEADY, STEADY).reasons
    assert "10% of drift" in reason
    assert "--against REF" in reason


def test_a_rate_is_worse_when_it_falls(tmp_path: Path) -> None:
    assert compared(tmp_path, STEADY, scaled(0.5), RATE).verdict == Verdict.REGRESSION
    assert compared(tmp_path, STEADY, scaled(2.0), RATE).verdict == Verdict.IMPROVEMENT


def test_a_quiet_machine_may_allow_less_drift(tmp_path: Path) -> None:
    assert compared(tmp_path, STEADY, STEADY, drift="1%").verdict == Verdict.PASS
    assert compared(tmp_path, STEADY, scaled(1.08), drift="1%").verdict == Verdict.REGRESSION


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "pass"), (1.01, "pass"), (1.2, "regression")])
def test_memory_does_not_drift(tmp_path: Path, factor: float, verdict: str) -> None:
    assert compared(tmp_path, STEADY, scaled(factor), MEMORY).verdict == verdict


def test_a_single_turn_tells_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, [100.0], [500.0])
    assert found.verdict == Verdict.INCONCLUSIVE
    assert found.interval is not None
    assert not found.interval.bounded


def test_a_zero_has_no_ratio(tmp_path: Path) -> None:
    assert "0: no ratio" in compared(tmp_path, [0.0, 1.0], [1.0, 1.0], MEMORY).reasons[0]


def test_half_of_the_calls_being_slower_is_seen(tmp_path: Path) -> None:
    bimodal = [value * (1.6 if index % 2 else 1.0) for index, value in enumerate(STEADY * 2)]
    base, new = (
        record("prefill", MHA, {"ttft": samples}, length=8, context={"turns": [0] * 6})
        for samples in (STEADY * 2, bimodal)
    )
    report = judged(run(tmp_path, [base]), run(tmp_path, [new]), rules(TTFT))
    assert finding(report, "ttft").verdict == Verdict.REGRESSION


@pytest.mark.parametrize(
    ("waited", "turns", "reason"),
    [
        ([0.8, 0.8, 0.0, 0.0], True, "base: 2 of 4 turns disturbed, such as by: waited for a processor: 80%"),
        ([0.8, 0.0, 0.0, 0.0], True, None),
        ([], False, "base: load average 7 on 2 processors"),
    ],
)
def test_times_of_a_disturbed_machine_call_nothing(
    tmp_path: Path, waited: list[float], turns: bool, reason: str | None
) -> None:
    """Identical code has differed by a factor of two on a machine with seven busy processes on two processors."""
    plain = record("prefill", MHA, {"ttft": STEADY[:4]}, length=8)
    blocks = [Block(0, number, 0, 1.0, {"ttft": 1}, Conditions(waited=share)) for number, share in enumerate(waited)]
    loaded = replace(plain, context={**plain.context, "load_before": [0.5], "load_after": [7.0]})
    base = replace(plain, blocks=blocks) if turns else loaded
    slower = replace(plain, metrics={"ttft": metric("ttft", scaled(2.0)[:4])})
    found = finding(judged(run(tmp_path, [base]), run(tmp_path, [slower]), rules(TTFT)), "ttft")
    assert found.verdict == (Verdict.INCONCLUSIVE if reason else Verdict.REGRESSION)
    assert found.reasons == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_most": 50.0}, Verdict.INCONCLUSIVE),
        ({"at_most": 5_000.0}, Verdict.PASS),
        ({"at_most": 5_000.0, "at_least": 1.0}, Verdict.INCONCLUSIVE),
    ],
    ids=["broken", "kept", "perhaps too fast"],
)
def test_a_disturbed_machine_breaks_no_limit_but_may_keep_it(
    tmp_path: Path, bounds: dict[str, float], verdict: Verdict
) -> None:
    """Neighbours make nothing faster, so what is kept in spite of them is kept."""
    blocks = [Block(0, number, 0, 1.0, {"ttft": 1}, Conditions(stolen=0.5)) for number in range(4)]
    one = replace(record("prefill", MHA, {"ttft": STEADY[:4]}, length=8), blocks=blocks)
    side = run(tmp_path, [one])
    found = finding(judged(side, side, rules({"metrics": "ttft", "limit": "absolute", **bounds})), "ttft")
    assert found.verdict == verdict
    assert bool(found.reasons) == (verdict == Verdict.INCONCLUSIVE)


def test_samples_of_one_turn_count_once() -> None:
    one = record("prefill", MHA, {"ttft": [1.0, 3.0, 2.0, 2.0]}, length=8, context={"turns": [0, 1]})
    assert Units.of(one, "ttft").logs == [math.log(2.0), math.log(2.0)]


def test_processes_are_the_unit_where_there_are_several(tmp_path: Path) -> None:
    """Samples that agree within a process say nothing about how much processes differ."""
    samples = [100.0] * 4 + [110.0] * 4 + [105.0] * 4
    blocks = [Block(number // 2, number, 0, 1.0, {"ttft": 2}) for number in range(6)]
    one = replace(record("prefill", MHA, {"ttft": samples}, length=8), blocks=blocks)
    assert Units.of(one, "ttft").logs == pytest.approx([math.log(level) for level in (100, 110, 105)])
    faster = replace(one, metrics={"ttft": metric("ttft", [0.8 * sample for sample in samples])})
    found = finding(judged(run(tmp_path, [one]), run(tmp_path, [faster]), rules(TTFT)), "ttft")
    assert found.verdict == Verdict.PASS  # by the samples it would be an improvement
    assert found.evidence is not None
    assert (found.evidence.count, found.evidence.unit) == (3, "processes")


def test_turns_are_the_unit_of_a_single_process() -> None:
    blocks = [Block(0, 0, 0, 1.0, {"ttft": 2}), Block(0, 1, 0, 1.0, {"ttft": 2}, dropped=True, samples={"ttft": [9.0]}),
              Block(0, 2, 0, 1.0, {"ttft": 1})]  # fmt: skip
    one = replace(record("prefill", MHA, {"ttft": [1.0, 3.0, 5.0]}, length=8), blocks=blocks)
    assert Units.of(one, "ttft").logs == pytest.approx([math.log(2.0), math.log(5.0)])


def test_absolute_limits_on_a_time_need_the_whole_interval(tmp_path: Path) -> None:
    for limit, verdict in ((150.0, "pass"), (100.0, "inconclusive"), (50.0, "regression")):
        rule = {"metrics": "ttft", "limit": "absolute", "at_most": limit}
        assert compared(tmp_path, STEADY, STEADY, rule).verdict == verdict


def test_a_limit_far_away_is_kept_by_two_turns(tmp_path: Path) -> None:
    rule = {"metrics": "ttft", "limit": "absolute", "at_most": 20.0}
    assert compared(tmp_path, [8.0, 9.0], [8.0, 9.0], rule).verdict == Verdict.PASS


def test_old_times_are_not_compared_old_sizes_are(tmp_path: Path) -> None:
    one = record("prefill", MHA, {"ttft": STEADY, "peak_memory": STEADY}, length=8)
    by = rules(TTFT, MEMORY, baseline_days=30)

    def at_age(days: int) -> GateReport:
        base = open_run(run(tmp_path, [one]), accepted={one.cell: date.today() - timedelta(days)})
        return compare(base, open_run(run(tmp_path, [one])), by, "planted", "baseline")

    assert finding(at_age(30), "ttft").verdict == Verdict.INCONCLUSIVE
    assert finding(at_age(31), "ttft").verdict == Verdict.INCOMPARABLE
    assert "accepted 31 days ago" in finding(at_age(31), "ttft").reasons[0]
    assert finding(at_age(31), "peak_memory").verdict == Verdict.PASS


@settings(max_examples=25, deadline=None)
@given(
    samples=st.lists(st.floats(50, 200), min_size=2, max_size=6),
    factor=st.floats(0.01, 100),
    seed=st.integers(0, 9),
)
def test_turns_ignore_scale_and_order(samples: list[float], factor: float, seed: int) -> None:
    shuffled = random.Random(seed).sample(samples, len(samples))
    plain, changed = (
        Units.of(record("prefill", MHA, {"ttft": values}, length=8), "ttft")
        for values in (samples, [factor * value for value in shuffled])
    )
    assert changed.mean - plain.mean == pytest.approx(math.log(factor), abs=1e-9)
    assert changed.error == pytest.approx(plain.error, rel=1e-6, abs=1e-15)


def test_unchanged_code_on_a_machine_that_drifts_as_allowed_is_never_called(tmp_path: Path) -> None:
    """2,000 pairs of runs, each with its own level within the allowed drift, and noise of 2% a turn."""
    from harness.gate.judges.stored import StoredJudge
    from harness.gate.questions import Pair, Question
    from harness.suite.schema import Gate, Relative

    rng = random.Random(1)
    rule = Relative(metrics="ttft")
    judge = StoredJudge(Gate(rules=[rule]), {}, date.today())

    def side() -> Any:
        level = 100 * rng.uniform(1.0, 1.1)
        return record("prefill", MHA, {"ttft": [level * rng.gauss(1, 0.02) for _ in range(4)]}, length=8)

    verdicts = [judge.judge(Question(Pair(side(), side()), "ttft", rule), 0.01).verdict for _ in range(2_000)]
    called = sum(verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT) for verdict in verdicts)
    assert called <= 20  # two sides of alpha 1% at the worst drift; hardly any draw is at the worst


def test_welch_agrees_with_scipy() -> None:
    from scipy import stats

    base, new = Units([0.1, 0.2, 0.4, 0.1], 1), Units([0.3, 0.9, 0.5], 1)
    error, degrees = welch(base, new)
    expected = stats.ttest_ind(new.logs, base.logs, equal_var=False)
    assert (new.mean - base.mean) / error == pytest.approx(expected.statistic)
    assert degrees == pytest.approx(expected.df)
