"""Each rule does what its tool is known to do, on samples where the answer is plain."""

import numpy as np
import pytest

from harness.gate.quality.rules_of_others import RULES

RNG = np.random.default_rng(2)


def windows(center: float, count: int = 200, noise: float = 0.01) -> np.ndarray:
    return center * np.exp(noise * RNG.standard_normal((count, 10, 3)))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_sees_half_as_much_again_and_nothing_where_b_is_faster(name: str) -> None:
    assert RULES[name](windows(2.0), windows(3.0)).all()
    assert not RULES[name](windows(3.0), windows(2.0)).any()
    assert RULES[name](windows(2.0, 7), windows(3.0, 7)).shape == (7,)


@pytest.mark.parametrize(("name", "alarms"), [("benchstat (Mann-Whitney)", 0.025), ("pyperf (t-test)", 0.025)])
def test_on_independent_noise_alarms_come_at_half_the_two_sided_level(name: str, alarms: float) -> None:
    assert RULES[name](windows(2.0, 4000), windows(2.0, 4000)).mean() == pytest.approx(alarms, abs=0.01)


@pytest.mark.parametrize("name", ["fixed 5% on means", "fixed 5% on medians", "pytest-benchmark `min:5%`"])
def test_fixed_limits_fire_above_five_percent_only(name: str) -> None:
    assert not RULES[name](windows(2.0, noise=1e-4), windows(2.09, noise=1e-4)).any()
    assert RULES[name](windows(2.0, noise=1e-4), windows(2.11, noise=1e-4)).all()


def test_asv_needs_its_factor_however_sure_it_is() -> None:
    a, b = windows(2.0, noise=1e-3), windows(2.16, noise=1e-3)
    assert not RULES["asv (factor 1.1)"](a, b).any()
    assert RULES["asv --factor 1.05"](a, b).all()


def test_a_minimum_is_blind_to_a_slow_down_of_every_other_call() -> None:
    a, b = windows(2.0, noise=1e-3), windows(2.0, noise=1e-3)
    b[:, ::2] *= 1.5
    assert not RULES["pytest-benchmark `min:5%`"](a, b).any()
    assert RULES["fixed 5% on means"](a, b).all()


def test_criterion_wants_the_whole_interval_above_its_noise_threshold() -> None:
    name = "criterion (bootstrap, 1%)"
    assert not RULES[name](windows(2.0, noise=1e-3), windows(2.015, noise=0.05)).mean() > 0.2
    assert RULES[name](windows(2.0, noise=1e-3), windows(2.03, noise=1e-3)).all()
