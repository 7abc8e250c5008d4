"""The live gate's logic on planted workers: what it says, how long it goes on, and what its controls are worth."""

from __future__ import annotations

import random
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.gate.live.stage import Stage
from harness.gate.statistics.sequential import FEWEST_VISITS, VISIT_SIZES, pairs_per_visit
from harness.gate.verdict import STATUS, Finding, GateReport, Verdict
from harness.records.conditions import Conditions
from tests.gate.live.planted import BASE, NEW, RELATIVE, LiveTurn, Machine, judged, planted_gate
from tests.run.planted import Quiet, failing

PAIRS = pairs_per_visit(0.01)
"""Of a visit, where a turn is one repetition of 10 ms."""


def noisy(deviation: float = 0.02, seed: int = 3, **slower: float) -> Any:
    """10 ms with noise; `slower` says by how much which kernels of the working tree are."""
    draw = random.Random(seed)

    def plant(turn: LiveTurn) -> float:
        change = slower.get(turn.kernels, 0.0) if turn.version == NEW else 0.0
        return 10 * (1 + change) * (1 + deviation * draw.gauss(0, 1))

    return plant


def finding(report: GateReport, kernels: str, length: int = 8, metric: str = "ttft") -> Finding:
    (found,) = [
        one
        for one in report.findings
        if one.metric == metric and f"/{kernels}/" in one.cell and f"length={length}]" in one.cell
    ]
    return found


def test_unchanged_code_passes_after_few_visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = judged(tmp_path, monkeypatch, noisy())
    assert report.exit_code == 0
    assert {one.verdict for one in report.findings} == {Verdict.PASS}
    assert all(control.holds for control in report.controls)
    assert [control.expected for control in report.controls] == [Verdict.PASS, Verdict.REGRESSION]
    evidence = finding(report, "sound").evidence
    assert evidence is not None
    assert evidence.count == FEWEST_VISITS * PAIRS
    assert (evidence.unit, evidence.groups) == ("pairs", -(-evidence.count // PAIRS))
    assert evidence.detectable is not None
    assert 0.03 <= evidence.detectable < 0.1


def test_a_slow_down_is_a_regression_of_its_cells_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = judged(tmp_path, monkeypatch, noisy(slow=0.06))
    assert report.exit_code == 1
    for length in (8, 16):
        assert finding(report, "sound", length).verdict == Verdict.PASS
        slow = finding(report, "slow", length)
        assert slow.verdict == Verdict.REGRESSION
        assert slow.estimate == pytest.approx(1.06, abs=0.02)
        assert slow.interval is not None
        assert slow.interval.low < 1.06 < slow.interval.high
        assert slow.seconds > 0
        assert slow.timed


def test_a_gain_is_an_improvement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = judged(tmp_path, monkeypatch, noisy(slow=-0.1))
    assert report.exit_code == 0
    assert finding(report, "slow").verdict == Verdict.IMPROVEMENT


def test_drift_that_meets_both_sides_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, now = random.Random(5), 0

    def drifting(_: LiveTurn) -> float:
        nonlocal now
        now += 1
        return 10 * 1.001**now * (1 + 0.01 * draw.gauss(0, 1))

    report, _ = judged(tmp_path, monkeypatch, drifting)
    assert report.regressions == []
    assert all(one.verdict == Verdict.PASS for one in report.findings)


def test_only_undecided_cells_go_on_with_fresh_workers_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)

    def plant(turn: LiveTurn) -> float:
        wild = turn.kernels == "slow" and turn.length == 16
        return 10 * (1 + (2.0 if wild else 0.001) * draw.random())

    _, machine = judged(tmp_path, monkeypatch, plant, budget=1e9)
    counts = Counter((turn.kernels, turn.length) for turn in machine.turns if turn.version == BASE)
    assert counts["slow", 16] >= 4 * counts["slow", 8]
    assert counts["slow", 8] == counts["sound", 16] == 3 * PAIRS
    starts = Counter(line for line in machine.log if line.startswith("start"))
    assert starts[f"start {BASE} slow"] == starts[f"start {NEW} slow"] > 5
    assert starts[f"start {BASE} sound"] == 3


def test_no_worker_starts_before_all_sides_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts later is faster."""
    _, machine = judged(tmp_path, monkeypatch, lambda turn: 10.0)
    acts = [line for line in machine.log if line.startswith(("nursery ", "start "))]
    visits = [list(group) for opened, group in groupby(acts, lambda act: act.startswith("nursery ")) if opened]
    assert [sorted(visit) for visit in visits] == [[f"nursery {BASE}", *[f"nursery {NEW}"] * 3]] * 3, (
        "both sides and two controls, every visit"
    )


def test_an_undecided_cell_ends_with_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)

    def plant(turn: LiveTurn) -> float:
        return 10 * (1 + draw.random()) if turn.kernels == "slow" else 10.0

    report, _ = judged(tmp_path, monkeypatch, plant, lengths=[8], budget=2.5)
    found = finding(report, "slow")
    assert found.verdict == Verdict.INCONCLUSIVE
    assert 2.5 <= found.seconds < 2.5 + max(VISIT_SIZES) * PAIRS * 2 * 0.02
    assert found.reasons[0].endswith("; its 2.5 s of turns are spent")
    assert report.exit_code == 3


def test_visits_that_nobody_expected_are_still_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bar stood at its end while cells were undecided, it told nobody anything."""
    gate = planted_gate(tmp_path, monkeypatch, Machine(noisy(0.3)), lengths=[8])
    shown, ahead = Quiet(), []
    monkeypatch.setattr(shown, "say", lambda text: ahead.append((text, shown.total - shown.done)))
    gate.stage = Stage(shown)
    gate.report()
    starting = {text: left for text, left in ahead if text.endswith("starting workers")}
    assert len(starting) > 5
    assert all(left >= 1 for text, left in starting.items() if text.startswith("visit"))


def test_pairs_share_their_inputs_and_either_side_may_be_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, machine = judged(tmp_path, monkeypatch, lambda _: 10.0, kernels=["sound"], lengths=[8])
    own = [turn for turn in machine.turns if not turn.control and turn.version == BASE]
    assert len({turn.number for turn in own}) == len(own) == 3 * PAIRS
    places = [number for number, turn in enumerate(machine.turns) if turn in own]
    beside = [[one for one in machine.turns[max(0, place - 1) : place + 2] if one.version == NEW] for place in places]
    assert all(own[index].number in [one.number for one in there] for index, there in enumerate(beside))
    first = [machine.turns[place + 1].number == machine.turns[place].number for place in places]
    assert 0 < sum(first) < len(first)


def test_no_short_turn_follows_one_of_its_own_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda _: 10.0)
    gate = planted_gate(tmp_path, monkeypatch, machine, kernels=["sound"], lengths=[8])
    gate.controlled = False
    gate.report()
    for visit in range(3):
        own = [turn.version for turn in machine.everything if turn.visit == visit]
        assert all(one != other for one, other in pairwise(own))
        assert 0.2 * PAIRS < len(own) - 2 * PAIRS < 0.8 * PAIRS, "a coin still decides who goes first"


def test_long_turns_need_no_spacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.gate.live.lane.SPACED_SECONDS", 0.01)
    _, machine = judged(tmp_path, monkeypatch, lambda _: 10.0, kernels=["sound"], lengths=[8])
    assert machine.everything == machine.turns


def test_disturbed_pairs_are_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[str] = Counter()

    def plant(turn: LiveTurn) -> Any:
        taken[turn.version] += 1
        disturbed = turn.version == NEW and taken[NEW] % 7 == 0
        return (1000.0, Conditions(waited=0.5)) if disturbed else (10.0, Conditions(waited=0.0))

    report, _ = judged(tmp_path, monkeypatch, plant, kernels=["sound"], lengths=[8])
    found = finding(report, "sound")
    assert found.verdict == Verdict.PASS
    assert found.interval is not None
    assert found.interval.high < 1.01


def test_where_everything_is_disturbed_nothing_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, machine = judged(tmp_path, monkeypatch, lambda _: (10.0, Conditions(waited=0.3)), kernels=["sound"], lengths=[8])
    assert sum(turn.version == BASE for turn in machine.turns) == 3 * PAIRS


# --- controls ---------------------------------------------------------------------------------------


def test_a_control_that_misses_its_slow_down_makes_the_run_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(turn: LiveTurn) -> float:
        return 10 / (1 + turn.planted.slower) if turn.planted else 10.0

    report, _ = judged(tmp_path, monkeypatch, blind)
    assert [control.holds for control in report.controls] == [True, False]
    assert (report.unfit, report.exit_code) == (True, 3)


def test_a_control_that_cries_wolf_discredits_what_was_called_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was started second is slower on this machine: the new side, and the control's twin."""

    def plant(turn: LiveTurn) -> float:
        return (
            10.0
            if turn.version == BASE or (not turn.control and turn.length == 8 and turn.kernels == "sound")
            else 11.0
        )

    report, _ = judged(tmp_path, monkeypatch, plant)
    assert [control.holds for control in report.controls] == [False, True]
    assert finding(report, "slow").verdict == Verdict.REGRESSION
    assert (report.regressions, report.exit_code) == ([], 3)


def test_controls_judge_a_time_that_their_cell_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule names the times of all kinds; a decode cell has but one of them."""
    workloads = [{"kind": "decode", "length": 8, "context": "synthetic"}]
    rules = [{**RELATIVE, "metrics": ["ttft", "tpot"]}]
    report, _ = judged(tmp_path, monkeypatch, noisy(), workloads=workloads, rules=rules)
    assert [control.finding.metric for control in report.controls] == ["tpot", "tpot"]
    assert all(control.holds for control in report.controls)


def test_a_control_whose_worker_fails_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(turn: LiveTurn) -> float:
        if turn.control:
            raise failing("gone")
        return 10.0

    report, _ = judged(tmp_path, monkeypatch, plant)
    assert [control.finding.verdict for control in report.controls] == [Verdict.BROKEN] * 2
    assert report.controls[0].finding.reasons == ["gone"]
    assert report.exit_code == 3


def test_without_a_rule_on_a_time_there_is_no_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"metrics": "cache_bytes", "limit": "exact"}]
    report, machine = judged(tmp_path, monkeypatch, noisy(), rules=rules)
    assert report.controls == []
    assert report.exit_code == 0
    assert Counter(turn.version for turn in machine.turns) == {BASE: 4, NEW: 4}  # one turn a cell, no pairs


# --- other metrics ----------------------------------------------------------------------------------


def test_rates_and_memory_are_judged_from_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(noisy(slow=0.08))
    machine.metrics = lambda turn, ms: {
        "ttft": ms,
        "prompt_rate": 1e3 / ms,
        "peak_memory": 1000.0 * (1.2 if turn.version == NEW and turn.kernels == "slow" else 1.0),
    }
    rules = [
        {"metrics": ["ttft", "prompt_rate"], "limit": "relative"},
        {"metrics": "peak_memory", "limit": "relative", "tolerate": "2%", "catch": "10%"},
    ]
    report, _ = judged(tmp_path, monkeypatch, machine.plant, machine=machine, rules=rules)
    for metric, estimate in (("ttft", 1.08), ("prompt_rate", 1 / 1.08), ("peak_memory", 1.2)):
        slow = finding(report, "slow", metric=metric)
        assert slow.verdict == Verdict.REGRESSION
        assert slow.estimate == pytest.approx(estimate, rel=0.02)
        assert slow.interval is not None
        assert slow.interval.low <= estimate * 1.005
        assert slow.interval.high >= estimate * 0.995
        assert slow.timed == (metric != "peak_memory")
        assert finding(report, "sound", metric=metric).verdict == Verdict.PASS


def test_a_value_of_zero_has_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(noisy())
    machine.metrics = lambda _, ms: {"ttft": ms, "peak_memory_growth": 0.0}
    rules = [RELATIVE, {"metrics": "peak_memory_growth", "limit": "relative"}]
    report, _ = judged(tmp_path, monkeypatch, machine.plant, machine=machine, rules=rules)
    found = finding(report, "sound", metric="peak_memory_growth")
    assert (found.verdict, found.reasons) == (Verdict.INCONCLUSIVE, ["a value is 0: no ratio"])


def test_sizes_are_compared_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [RELATIVE, {"metrics": "cache_bytes", "limit": "relative", "tolerate": "1%", "catch": "5%"}]
    report, _ = judged(tmp_path, monkeypatch, noisy(), rules=rules)
    assert finding(report, "sound", metric="cache_bytes").verdict == Verdict.PASS


# --- failures ---------------------------------------------------------------------------------------


def test_a_new_failure_is_a_regression_and_an_old_one_an_improvement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plant(turn: LiveTurn) -> float:
        if (turn.version, turn.kernels, turn.length) in ((NEW, "slow", 8), (BASE, "slow", 16)):
            raise failing("the worker was killed by SIGSEGV")
        return 10.0

    report, _ = judged(tmp_path, monkeypatch, plant)
    assert finding(report, "slow", 8, STATUS).verdict == Verdict.REGRESSION
    assert "killed by SIGSEGV" in finding(report, "slow", 8, STATUS).reasons[0]
    assert finding(report, "slow", 16, STATUS).verdict == Verdict.IMPROVEMENT
    assert finding(report, "sound", 8).verdict == Verdict.PASS
    assert report.exit_code == 1


def test_a_crash_in_a_later_visit_counts_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(turn: LiveTurn) -> float:
        if (turn.version, turn.kernels, turn.length, turn.visit) == (NEW, "slow", 8, 2):
            raise failing("gone")
        return 10.0

    report, _ = judged(tmp_path, monkeypatch, plant)
    assert finding(report, "slow", 8, STATUS).verdict == Verdict.REGRESSION


def test_what_the_ref_does_not_know_is_not_gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(noisy(), refused={f"{BASE} slow": "unknown kernels 'slow'"})
    report, _ = judged(tmp_path, monkeypatch, machine.plant, machine=machine)
    assert {one.verdict for one in report.findings} == {Verdict.PASS}
    assert len([one for one in report.ungated if "unknown kernels 'slow'" in one.reason]) == 2
    assert report.exit_code == 0


def test_bad_input_of_the_working_tree_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(noisy(), refused={f"{NEW} slow": "a tensor is missing"})
    with pytest.raises(UsageError, match="a tensor is missing"):
        judged(tmp_path, monkeypatch, machine.plant, machine=machine)


def test_a_ref_that_speaks_otherwise_is_incomparable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(noisy(), protocols={BASE: 1})
    report, _ = judged(tmp_path, monkeypatch, machine.plant, machine=machine)
    assert {one.verdict for one in report.findings} == {Verdict.INCOMPARABLE}
    assert len(report.findings) == 4
    assert report.exit_code == 3


def test_a_rule_that_matches_nothing_breaks_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = judged(tmp_path, monkeypatch, noisy(), rules=[RELATIVE, {"metrics": "ttfy", "limit": "relative"}])
    assert report.exit_code == 2
    assert any("'ttfy' matched nothing" in problem for problem in report.problems)


def test_records_say_where_their_code_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = planted_gate(tmp_path, monkeypatch, Machine(noisy()))
    gate.report()
    for side in (gate.base, gate.new):
        records = side.measured(False).records.values()
        assert {str(record.context["roots"]) for record in records} == {"{'harness': 'there'}"}
        assert all(record.blocks for record in records)


def test_ctrl_c_ends_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(turn: LiveTurn) -> float:
        if turn.visit == 1:
            raise KeyboardInterrupt
        return 10.0

    with pytest.raises(KeyboardInterrupt):
        judged(tmp_path, monkeypatch, plant)
