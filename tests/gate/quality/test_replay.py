"""Replaying: windows are disjoint and complete, shares exact, and planted truths are found."""

from __future__ import annotations

import numpy as np
import pytest

from harness.gate.quality.replay import (
    Ours,
    Recording,
    Share,
    Window,
    flipped,
    log_ratios,
    replay,
    replay_rule,
    together,
)
from harness.gate.quality.rules_of_others import RULES
from harness.gate.quality.trace import BIMODAL, SAME
from harness.gate.statistics.sequential import VISIT_SIZES, Design, Margins
from harness.gate.verdict import Verdict
from tests.gate.quality.fake_trace import fake_trace

TRACE = fake_trace(sessions=12)


def rate(done: Ours, verdict: Verdict) -> float:
    return done.share(verdict).value


# --- shares ---------------------------------------------------------------------------------------------


def test_clopper_pearson_agrees_with_published_values() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 5: 81 of 263, 0 of 20, 1 of 29."""
    assert Share(81, 263).interval == pytest.approx((0.2527, 0.3676), abs=1e-4)
    assert Share(0, 20).interval == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert Share(1, 29).interval == pytest.approx((0.0009, 0.1776), abs=1e-4)
    assert Share(20, 20).interval == pytest.approx((0.8316, 1.0), abs=1e-4)


def test_a_share_of_nothing_is_no_number() -> None:
    assert np.isnan(Share(0, 0).value)


# --- ours -----------------------------------------------------------------------------------------------


def test_planted_truths_are_found() -> None:
    assert rate(replay(TRACE, "decode", SAME, Design()), Verdict.PASS) == 1.0
    assert rate(replay(TRACE, "decode", "+5%", Design()), Verdict.REGRESSION) == 1.0
    assert rate(replay(TRACE, "decode", "+10%", Design()), Verdict.REGRESSION) == 1.0
    assert rate(replay(TRACE, "decode", BIMODAL, Design()), Verdict.REGRESSION) >= 0.9
    assert rate(replay(fake_trace(40), "decode", "+3%", Design(Margins(0.005, 0.03))), Verdict.REGRESSION) == 1.0


def test_windows_use_every_pair_at_most_once() -> None:
    done = replay(TRACE, "decode", SAME, Design())
    assert sum(window.pairs for window in done.windows) <= 12 * 20
    assert all(window.pairs == 5 * sum(VISIT_SIZES[: window.processes]) for window in done.windows)


def test_a_window_goes_through_sessions_before_it_comes_back_to_one() -> None:
    """Slow at first, so that two windows of four visits, 5 pairs each, meet nothing else in eight sessions."""
    slow = [5] * 8
    ratios = [np.where(np.arange(2 * first) < first, 0.2, 0.0) for first in slow]
    found = [window.verdict for window in replay_of(ratios, fake_trace(sessions=8)).windows]
    assert found == [Verdict.REGRESSION] * 2 + [Verdict.PASS] * 2


def replay_of(ratios: list[np.ndarray], trace) -> Ours:
    """`replay` on given log ratios."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.gate.quality.replay.log_ratios", lambda *_: ratios)
        return replay(trace, "decode", SAME, Design())


def test_an_open_question_gets_longer_visits_until_the_last_one() -> None:
    trace = fake_trace(sessions=16, rounds=20)
    ratios = [np.where(np.arange(20) % 2, 0.5, -0.5) for _ in range(16)]
    assert [(one.verdict, one.pairs, one.processes) for one in replay_of(ratios, trace).windows] == [
        (Verdict.INCONCLUSIVE, 5 * 40, 16)
    ]
    assert replay_of(ratios[:-1], trace).windows == [], "what a recording is too short for is not judged"


def test_seconds_are_those_of_both_sides_turns() -> None:
    window = replay(TRACE, "decode", SAME, Design()).windows[0]
    assert window.seconds == pytest.approx(2 * window.pairs * 0.6)


def test_few_disturbed_pairs_are_taken_again_and_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = fake_trace(sessions=1, rounds=20)
    lost = np.zeros(20)
    lost[[1, 8, 9, 10, 17]] = 0.5
    monkeypatch.setattr(type(trace), "lost", lambda *_: [lost])
    (ratios,) = log_ratios(trace, "decode", SAME)
    recording = Recording(trace, "decode", SAME)
    taken = [visit for visit in (recording.visit(5) for _ in range(4)) if visit]
    assert [visit.taken for visit in taken] == [6, 5, 5]
    assert taken[0].log_ratios.tolist() == ratios[[0, 2, 3, 4, 5]].tolist()
    assert taken[1].log_ratios.tolist() == ratios[6:11].tolist(), "most were disturbed: the machine is like that"


def test_shares_over_time_rise_to_the_final_one() -> None:
    done = Ours([Window(Verdict.PASS, 10, 1.0, 3), Window(Verdict.REGRESSION, 20, 2.0, 4)])
    assert [done.decided_by(Verdict.REGRESSION, seconds) for seconds in (1.0, 2.0)] == [0.0, 0.5]
    assert together([done, done]).share(Verdict.PASS) == Share(2, 4)


@pytest.mark.parametrize("by", ["pair", "process"])
def test_flipped_signs_raise_alarms_within_the_bound(by: str) -> None:
    design = Design(Margins(0.0, 1e-9), alpha=0.1, disagreement=0.49, processes=2)
    alarms = flipped(TRACE, "decode", design, 300, by, np.random.default_rng(1))
    assert alarms.windows == 300
    low, _ = alarms.interval
    assert alarms.count > 0
    assert low <= 0.1 or by == "process"


# --- others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taken", "windows"), [("interleaved", 24), ("sequential", 12), ("stored", 4)])
def test_windows_of_others_are_disjoint(taken: str, windows: int) -> None:
    seen = []

    def rule(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        seen.append((a, b))
        return np.zeros(len(a), bool)

    assert replay_rule(TRACE, "decode", SAME, rule, 10, taken) == Share(0, windows)
    (a, b) = seen[0]
    assert a.shape == b.shape == (windows, 10, 4)
    assert len(np.unique(a.reshape(windows, -1), axis=0)) == windows


def test_sequential_windows_put_b_after_a() -> None:
    def rule(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        base, same = TRACE.pairs("decode", SAME)[0]
        assert np.array_equal(a[0], base[:10])
        assert np.array_equal(b[0], same[10:20])
        return np.ones(len(a), bool)

    assert replay_rule(TRACE, "decode", SAME, rule, 10, "sequential").value == 1.0


def test_a_trace_too_short_for_a_stored_baseline_has_no_window() -> None:
    assert replay_rule(fake_trace(2), "decode", SAME, RULES["asv (factor 1.1)"], 10, "stored") == Share(0, 0)


def test_drift_makes_sequential_rules_cry_wolf_where_pairs_do_not() -> None:
    trace = fake_trace(30, seed=3)
    alarms = replay_rule(trace, "decode", SAME, RULES["benchstat (Mann-Whitney)"], 10, "sequential")
    assert alarms.value > 0.1
    assert rate(replay(trace, "decode", SAME, Design()), Verdict.REGRESSION) == 0.0
