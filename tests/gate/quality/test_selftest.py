"""The self-test on planted workers: what it plants, and whom it believes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from harness.contract.planted import Planted
from harness.contract.registry import Registry
from harness.gate.quality.selftest import OVER, UNCHANGED, Plant, Tried, exit_code, of_baselines, plants, self_test
from harness.gate.verdict import Finding, GateReport, Side, Verdict
from harness.run.plan import Plan, make_plan
from harness.suite.load import load_suite
from harness.suite.schema import Absolute, Gate, Points, Relative
from tests.gate.live.planted import FACTS, RELATIVE, LiveTurn, Machine, PlantedVersionWorkers
from tests.run.planted import Quiet
from tests.support.fake_suite import PLUGIN, fake_suite

MEMORY_RULE = {"metrics": "peak_memory", "limit": "relative", "tolerate": "2%", "catch": "10%"}


def planned(folder: Path, *rules: dict[str, Any]) -> tuple[Plan, Registry]:
    suite = fake_suite(folder, ["sound", "slow"], [8], gate={"rules": list(rules or (RELATIVE,))})
    registry = Registry([str(PLUGIN)], entry_points=False)
    return make_plan(load_suite(suite.path), registry, FACTS), registry


def tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, *rules: dict[str, Any], times: int = 1
) -> list[Tried]:
    """A self-test over planted workers, on the baselines alone."""
    workers = type("Workers", (PlantedVersionWorkers,), {"machine": machine})
    monkeypatch.setattr("harness.gate.live.side.VersionWorkers", workers)
    plan, registry = planned(folder, *rules)
    found = []
    for one in self_test(of_baselines(plan), registry, lambda _: Quiet(), times):
        machine.made.clear()
        found.append(one)
    return found


def noisy(_: LiveTurn, draw: random.Random = random.Random(3)) -> float:  # noqa: B008 (one stream for all turns)
    return 10 * (1 + 0.01 * draw.gauss(0, 1))


# --- the whole of it ------------------------------------------------------------------------------------


def test_a_sound_gate_passes_what_is_the_same_and_catches_what_is_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(noisy)
    machine.metrics = lambda turn, ms: {
        "ttft": ms,
        "peak_memory": 1e9 + (turn.planted.memory_bytes if turn.planted else 0),
    }
    found = tried(tmp_path, monkeypatch, machine, RELATIVE, MEMORY_RULE, times=2)
    names = [one.plant.name for one in found]
    assert names[:2] == ["nothing, run 1", "nothing, run 2"]
    assert names[2:] == ["6.2% more work in every call", "12.5% more work in half of the calls", "119 MiB more memory"]
    assert all(one.right for one in found)
    assert [len(one.hit) for one in found] == [0, 0, 1, 1, 1]
    assert exit_code(found) == 0


def test_only_the_copy_carries_the_plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(noisy)
    tried(tmp_path, monkeypatch, machine)
    assert {turn.planted for turn in machine.turns if turn.version == UNCHANGED} == {None}
    slower = OVER * 0.05
    planted = {None, Planted(slower=slower), Planted(slower=2 * slower, share=0.5)}
    assert {turn.planted for turn in machine.turns if turn.version != UNCHANGED} == planted
    assert {turn.kernels for turn in machine.turns} == {"sound"}, "one variant is enough"


def test_a_gate_that_cries_wolf_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs as the copy is slower on this machine."""
    found = tried(tmp_path, monkeypatch, Machine(lambda turn: 10.0 if turn.version == UNCHANGED else 10.8))
    assert [len(one.alarms) for one in found] == [1, 0, 0]
    assert not found[0].right
    assert exit_code(found) == 3


def test_a_gate_that_is_blind_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = Machine(lambda turn: 10 / (1 + turn.planted.slower) if turn.planted else 10.0)
    found = tried(tmp_path, monkeypatch, blind)
    assert [one.hit_as(Verdict.PASS) for one in found] == [0, 1, 1]
    assert exit_code(found) == 3


# --- parts ----------------------------------------------------------------------------------------------


def findings(metric: str, verdict: Verdict, base: float = 1.0) -> Finding:
    return Finding("t:decode[]:v", metric, "", verdict, base=base)


def result(*found: Finding, hits: tuple[str, ...] = ()) -> Tried:
    return Tried(Plant("p", None, hits), GateReport("s", Side("a"), Side("b"), "ref", list(found)))


def test_only_rules_that_can_see_a_plant_ask_for_it() -> None:
    gate = Gate(rules=[Absolute(metrics="kl", at_most=1.0)])
    assert plants(gate, []) == []
    gate = Gate(rules=[Points(metrics=["acc"], catch=5.0)])
    (wrong,) = plants(gate, [])
    assert wrong.planted == Planted(wrong=0.5)
    assert wrong.hits == {"acc"}


def test_memory_is_planted_by_what_was_measured() -> None:
    gate = Gate(rules=[Relative(metrics="peak_memory", tolerate="2%", catch="10%")])
    (heavy,) = plants(gate, [findings("peak_memory", Verdict.PASS, base=8e8)])
    assert heavy.planted == Planted(memory_bytes=100_000_000)
    assert plants(gate, []) == [], "nothing was measured, so nothing is known"


@pytest.mark.parametrize(
    ("hit", "other", "right"),
    [
        (Verdict.REGRESSION, Verdict.PASS, True),
        (Verdict.PASS, Verdict.PASS, False),
        (Verdict.INCONCLUSIVE, Verdict.PASS, False),
        (Verdict.REGRESSION, Verdict.INCONCLUSIVE, False),
        (Verdict.REGRESSION, Verdict.REGRESSION, False),
        (Verdict.REGRESSION, Verdict.IMPROVEMENT, False),
    ],
)
def test_right_means_every_answer(hit: Verdict, other: Verdict, right: bool) -> None:
    one = result(findings("ttft", hit), findings("kl", other), hits=("ttft",))
    assert one.right == right
    assert exit_code([one]) == (0 if right else 3)


def test_a_broken_gate_outranks_a_wrong_answer() -> None:
    assert exit_code([result(findings("ttft", Verdict.REGRESSION)), result(findings("ttft", Verdict.BROKEN))]) == 2
