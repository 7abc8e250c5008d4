"""Numbers as text, and the metrics table that everything goes by."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path

import pytest

from harness.records.metrics import METRICS, metric, withheld
from harness.records.statistics import STATISTICS, quantile, relative_spread
from harness.report import numbers

README = Path(__file__).parents[2] / "results" / "README.md"


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(numbers).failed == 0
    assert doctest.testmod(numbers).attempted >= 5


@pytest.mark.parametrize(
    ("statistic", "expected"), [("min", 1), ("max", 10), ("mean", 4), ("median", 2.5), ("p90", 7.9), ("p99", 9.79)]
)
def test_statistics_by_hand(statistic: str, expected: float) -> None:
    assert STATISTICS[statistic]([10, 1, 3, 2]) == pytest.approx(expected)


def test_quantiles_and_spread_by_hand() -> None:
    assert [quantile([4, 1, 3, 2], q) for q in (0, 0.25, 1)] == [1, 1.75, 4]
    assert relative_spread([1, 2, 3, 4, 5]) == pytest.approx(1 / 3)
    assert relative_spread([7]) == 0


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("ms", [50.0, 2e4, 3e4], ("s", 1e3)),
        ("ms", [9.0, 9_000.0], ("ms", 1.0)),
        ("ms", [0.05], ("µs", 1e-3)),
        ("bytes", [512.0], ("B", 1.0)),
        ("bytes", [2.0**31], ("GiB", 2.0**30)),
        ("fraction", [0.5], ("%", 0.01)),
        ("tokens/s", [1e6], ("tokens/s", 1.0)),
        ("ms", [], ("ms", 1.0)),
    ],
)
def test_units(unit: str, values: list[float], expected: tuple[str, float]) -> None:
    assert numbers.unit_for(unit, values) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.09996, "0.100"), (0.00123, "0.00123"), (99.96, "100"), (999.6, "1,000"), (-5.678, "-5.68"), (math.inf, "inf")],
)
def test_three_digits(value: float, text: str) -> None:
    assert numbers.number(value) == text


def test_a_single_sample_has_no_spread() -> None:
    assert numbers.spread([5.0]) == numbers.UNCERTAIN


def test_standard_errors_are_for_means_only() -> None:
    assert numbers.standard_error(metric("acc", [0, 1])) == 0.5
    assert numbers.standard_error(metric("acc", [1])) is None
    assert numbers.standard_error(metric("ttft", [1, 2])) is None


# --- the metrics table ----------------------------------------------------------------------------


def test_every_metric_can_be_derived_and_withheld() -> None:
    for name, spec in METRICS.items():
        assert spec.better in ("lower", "higher", "neither")
        assert metric(name, [1.0, 2.0]).value is not None
        assert withheld(name, "why").value is None


def test_the_readme_lists_exactly_the_metrics_of_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (\w+) \| (\w+) \| (.*?) \|$", README.read_text(), re.M)
    expected = [(m.name, m.unit or "-", m.better, m.statistic, m.meaning.replace("|", "\\|")) for m in METRICS.values()]
    assert rows == expected, "run: python -m harness.records.metrics"
