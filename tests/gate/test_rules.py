"""The `gate:` section: what cannot be meant is refused with its place, and names match exactly or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.gate.rules import Rules, describe, margins
from harness.gate.statistics.levels import MISS
from harness.gate.statistics.paired import binary_loss
from harness.records.metrics import METRICS
from harness.suite.expand import expand
from harness.suite.load import load_suite
from harness.suite.schema import Absolute, Points, Relative
from tests.gate.sides import DSA, MHA, record, rules

SUITES = sorted((Path(__file__).parents[2] / "suites").glob("[!w]*.yaml"))  # waivers.yaml is no suite
TTFT = {"metrics": "ttft", "limit": "relative"}

SUITE = """question: q
tables:
  t: {question: q, checkpoint: tiny-v3, variants: [{form: mha}], baseline: {form: mha},
      workloads: [{kind: prefill, length: 4}]}
gate:
  rules:
    - {metrics: tpot, limit: relative}
    - %s
"""


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("{metrics: ttft, limit: relativ}", ("unknown", "'relative'")),
        ("{metrics: ttft, limit: relative, catch: 0.05}", ("catch", "the number 0.05", "%")),
        ("{metrics: ttft, limit: relative, tolerate: 5%, catch: 5%}", ("tolerate has to be below catch",)),
        ("{metrics: ttft, limit: relative, tables: u}", ("unknown table 'u'", "allowed: t")),
        ("{metrics: ttft, limit: relative, kinds: prefil}", ("'prefil'", "'prefill'")),
        ("{metrics: ttft, limit: relative, only: {forms: mha}}", ("'forms'", "'form'")),
        ("{metrics: ttft, limit: relative, across: machin}", ("'machin'", "'machine'")),
        ("{metrics: kl, limit: absolute}", ("at_most or at_least",)),
        ("{metrics: kl, limit: absolute, at_least: 2, at_most: 1}", ("nothing is at least 2",)),
        ("{metrics: ttft, limit: points, catch: 1}", ("ttft is no share", "limit: difference")),
        ("{metrics: acc, limit: difference, catch: 1}", ("acc is a share", "limit: points")),
        ("{metrics: acc, limit: points, catch: -1}", ("catch", "above 0")),
        ("{metrics: [ttft, tpot], limit: relative}", ("a second relative rule for 'tpot'", "suite.yaml:7")),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, rule: str, parts: tuple[str, ...]
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE % rule)
    with pytest.raises(UsageError) as caught:
        Rules.of_suite(load_suite(path))
    assert "suite.yaml:8" in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_suite_without_a_gate_says_so(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.partition("gate:")[0])
    with pytest.raises(UsageError, match="no `gate:` section"):
        Rules.of_suite(load_suite(path))


@pytest.mark.parametrize("narrowed", [
    {"tables": "t"}, {"kinds": ["prefill", "decode"]}, {"only": {"selector": "dense"}},
    {"only": {"form": ["mha", "mqa"], "selector": "dense"}},
])  # fmt: skip
def test_a_rule_is_narrowed_by_exact_names(narrowed: dict[str, Any]) -> None:
    own = record("prefill", MHA, {"ttft": [1.0]}, length=8)
    assert rules({**TTFT, **narrowed}).of(own, "ttft")
    assert not rules({**TTFT, **narrowed}).of(own, "ttf")


@pytest.mark.parametrize("narrowed", [
    {"kinds": "decode"}, {"only": {"selector": "dense"}}, {"only": {"form": "mqa", "selector": "dense"}},
])  # fmt: skip
def test_a_cell_outside_is_not_judged(narrowed: dict[str, Any]) -> None:
    assert not rules({**TTFT, **narrowed}).of(record("prefill", DSA, {"ttft": [1.0]}, length=8), "ttft")


def test_rules_that_are_apart_may_judge_one_metric_twice() -> None:
    two = rules({**TTFT, "kinds": "prefill"}, {**TTFT, "kinds": "decode", "catch": "9%"},
                {"metrics": "ttft", "limit": "absolute", "at_most": 5.0})  # fmt: skip
    assert len(two.of(record("prefill", MHA, {"ttft": [1.0]}, length=8), "ttft")) == 2


def test_a_rule_that_met_nothing_is_named_with_the_nearest_metric() -> None:
    given = rules({"metrics": ["ttft", "tpott"], "limit": "relative"})
    given.of(record("prefill", MHA, {"ttft": [1.0]}, length=8), "ttft")
    (sentence,) = given.unmet(["ttft", "tpot"])
    assert "'tpott' matched nothing" in sentence
    assert "did you mean 'tpot'?" in sentence


def test_margins_are_fractions_where_the_metric_is_one() -> None:
    assert margins(Relative(metrics="ttft", tolerate="2.5%", catch="10%")) == (0.025, 0.1)
    assert margins(Points(metrics="acc", catch=2)) == (0.0, 0.02)


def test_limits_in_words() -> None:
    assert describe(Points(metrics="acc", catch=2, tolerate=0.5)) == "tolerate 0.5, catch 2 points"
    assert describe(Absolute(metrics="kl", at_least=1, at_most=2), "nats") == "at least 1 nats, at most 2 nats"


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_shipped_suite_gates_metrics_that_exist(path: Path) -> None:
    given = Rules.of_suite(load_suite(path)).gate.rules
    named = {metric for rule in given for metric in ([rule.metrics] if isinstance(rule.metrics, str) else rule.metrics)}
    assert named <= METRICS.keys()


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_unchanged_answers_are_enough_for_every_shipped_rule_in_points(path: Path) -> None:
    """With fewer documents a rule could never pass: it would fail every build until somebody switched it off."""
    loaded = load_suite(path)
    scores = {"needle": "exact_match", "needles": "exact_match", "tracking": "exact_match", "recall": "acc"}
    registry = Registry([str(path.parent / plugin) for plugin in loaded.suite.plugins], entry_points=False)
    cells = [cell for table in expand(loaded, registry) for cell in table.cells()]
    for cell in [cell for cell in cells if cell.workload.get("tasks") in scores]:
        unchanged = binary_loss(0, 0, cell.workload.get("limit", 500), alpha=0.001, miss=MISS)
        for rule in Rules.of_suite(loaded).of(cell, scores[cell.workload["tasks"]]):
            assert isinstance(rule, Points)
            assert unchanged.high < margins(rule)[1], cell.id
