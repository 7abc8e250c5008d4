"""Verdicts over the same documents: what is called, what is passed, what cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.gate.judges.accuracy import decide, estimate
from harness.gate.verdict import Finding, Verdict
from harness.records.joined import Joined, Losses
from tests.gate.sides import documents, finding, judged, rules, run, scored

ACC = {"metrics": "acc", "limit": "points", "catch": 2}
BITS = {"metrics": "bits_per_byte", "limit": "difference", "catch": 0.02}
MARGINS = (0.0, 0.02)


def compared(
    folder: Path,
    base: Sequence[float],
    new: Sequence[float],
    rule: dict[str, Any] = ACC,
    facts: tuple[dict[str, Any], dict[str, Any]] = ({}, {}),
) -> Finding:
    """The finding on two sides with these scores; `facts` are further keys of each side's documents."""
    metric = rule["metrics"]
    sides = []
    for scores, more in zip((base, new), facts, strict=True):
        one = scored(scores, metric=metric)
        sides.append(run(folder, [one], documents={one.cell: documents(scores, metric, **more)}))
    return finding(judged(*sides, rules(rule)), metric)


def flipped(count: int, lost: int, gained: int) -> tuple[list[float], list[float]]:
    """Scores of both sides: `lost` documents right on the base only, `gained` on the new side only."""
    both = [1.0] * ((count - lost - gained) // 2)
    neither = [0.0] * (count - lost - gained - len(both))
    return [*both, *neither, *[1.0] * lost, *[0.0] * gained], [*both, *neither, *[0.0] * lost, *[1.0] * gained]


@pytest.mark.parametrize(
    ("count", "lost", "gained", "verdict"),
    [
        (1_000, 25, 5, "regression"),
        (1_000, 5, 25, "improvement"),
        (1_000, 5, 5, "pass"),
        (1_000, 0, 0, "pass"),
        (100, 1, 1, "inconclusive"),
        (32, 0, 0, "inconclusive"),
        (200, 8, 2, "inconclusive"),
        (20_000, 60, 20, "pass"),
        (20_000, 300, 20, "regression"),
    ],
)
def test_right_and_wrong(tmp_path: Path, count: int, lost: int, gained: int, verdict: str) -> None:
    """The last two drops are real and proven: one is nearer to no loss, the other to the margin."""
    found = compared(tmp_path, *flipped(count, lost, gained))
    assert found.verdict == verdict
    assert found.estimate == pytest.approx((gained - lost) / count)
    assert f"{lost} documents lost, {gained} gained of {count}" in found.reasons[0]


def test_a_finding_says_what_it_could_have_shown(tmp_path: Path) -> None:
    found = compared(tmp_path, *flipped(200, 8, 2))
    assert found.evidence is not None
    assert (found.evidence.count, found.evidence.unit) == (200, "documents")
    assert found.evidence.detectable == pytest.approx(2.49 * math.sqrt(0.05 / 200), rel=0.01)
    assert any("documents would decide" in reason for reason in found.reasons)


def test_bit_equal_log_likelihoods_are_the_same_function_however_few(tmp_path: Path) -> None:
    same = {"log_likelihoods": [[-1.5, -2.0]] * 3}
    assert compared(tmp_path, [1, 0, 1], [1, 0, 1], facts=(same, same)).verdict == Verdict.PASS
    other = {"log_likelihoods": [[-1.5, -2.0], [-1.5, -2.0], [-1.5, -2.0000001]]}
    assert compared(tmp_path, [1, 0, 1], [1, 0, 1], facts=(same, other)).verdict == Verdict.INCONCLUSIVE


def test_the_log_loss_is_a_second_witness(tmp_path: Path) -> None:
    """Not a single answer flips, and the log-loss tells all the same."""
    rng = np.random.default_rng(0)
    before = rng.uniform(0.5, 1.5, 200)
    facts = ({"log_loss": before.tolist()}, {"log_loss": (before + rng.normal(0.03, 0.05, 200)).tolist()})
    found = compared(tmp_path, [1.0] * 200, [1.0] * 200, facts=facts)
    (witness,) = (reason for reason in found.reasons if "log-loss" in reason)
    assert witness.endswith("worse")


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "pass"), (0.05, "regression"), (-0.05, "improvement")])
def test_scores_that_are_no_shares(tmp_path: Path, shift: float, verdict: str) -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(2, 3, 64)
    found = compared(tmp_path, base.tolist(), (base + shift + rng.normal(0, 0.01, 64)).tolist(), BITS)
    assert found.verdict == verdict
    assert found.interval is not None
    assert found.interval.low is not None
    assert found.interval.high is not None
    assert found.interval.low < shift < found.interval.high


def test_documents_of_one_text_are_one_unit(tmp_path: Path) -> None:
    """Twelve documents lost would be a regression; that they are two texts makes them two events."""
    base, new = flipped(400, 12, 0)
    apart = compared(tmp_path, base, new)
    clusters = {"cluster": [index // 6 for index in range(388)] + [100] * 6 + [101] * 6}
    together = compared(tmp_path, base, new, facts=(clusters, clusters))
    assert apart.verdict == Verdict.REGRESSION
    assert together.verdict == Verdict.INCONCLUSIVE
    assert together.evidence is not None
    assert (together.evidence.groups, together.evidence.group_unit) == (67, "clusters")


def test_a_dozen_unchanged_documents_prove_little_in_units_too(tmp_path: Path) -> None:
    right = [1.0] * 12
    shared = {"cluster": [0, 0, *range(2, 12)]}
    found = compared(tmp_path, right, right, facts=(shared, shared))
    assert (found.verdict, found.estimate) == (Verdict.INCONCLUSIVE, 0.0)
    assert found.interval is not None
    assert found.interval.low is not None
    assert found.interval.low == pytest.approx(-0.184, abs=1e-3), "a drop of 18 points is still possible"


# --- not the same documents ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda found: found[:-1], "the new run lacks 1 documents: choice_512 3"),
        (lambda found: [*found, {**found[0], "doc_id": 9}], "the base lacks 1 documents: choice_512 9"),
        (lambda found: [{**found[0], "doc_hash": "x"}, *found[1:]], "other text or target in 1 documents"),
        (lambda found: [{**found[0], "target": 1}, *found[1:]], "other text or target in 1 documents"),
        (lambda found: [], "the new run has no per-document results"),
    ],
)
def test_other_documents_are_incomparable(tmp_path: Path, change: Any, text: str) -> None:
    scores = [1.0, 0.0, 1.0, 1.0]
    one = scored(scores)
    base = run(tmp_path, [one], documents={one.cell: documents(scores)})
    new = run(tmp_path, [one], documents={one.cell: change(documents(scores))})
    found = finding(judged(base, new, rules(ACC)), "acc")
    assert found.verdict == Verdict.INCOMPARABLE
    assert text in found.reasons[0]


def test_a_metric_of_the_whole_set_cannot_be_paired(tmp_path: Path) -> None:
    one = scored([0.7], metric="f1")
    side = run(tmp_path, [one], documents={one.cell: documents([1.0, 0.0], "acc")})
    found = finding(judged(side, side, rules({**BITS, "metrics": "f1"})), "f1")
    assert found.verdict == Verdict.INCOMPARABLE
    assert "no f1 of their own" in found.reasons[0]


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_documents_that_cannot_be_read_are_an_error(tmp_path: Path, damage: str) -> None:
    one = scored([1.0, 0.0])
    base, new = (run(tmp_path, [one], documents={one.cell: documents([1.0, 0.0])}) for _ in range(2))
    (file,) = (new.path / "samples").iterdir()
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UsageError, match="per-document results"):
        judged(base, new, rules(ACC))


def test_filters_and_groups_are_found_by_the_name_that_the_record_gives() -> None:
    given = [{**one, "filter": "strict"} for one in documents([1.0, 0.0], "exact_match")]
    joined = Joined.of(given, given)
    for name in ("exact_match[strict]", "choice_512.exact_match[strict]"):
        assert joined.losses(name, higher_is_better=True).values == [0.0, 0.0]


# --- what has to be shown -----------------------------------------------------------------------------


def trial(rng: np.random.Generator, drop: float, discordant: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one simulated pair of models with 75% accuracy."""
    draw = rng.random(count)
    lost, gained = (discordant + drop) / 2, (discordant - drop) / 2
    base = np.where(draw < lost, 1.0, np.where(draw < lost + gained, 0.0, rng.random(count) < 0.75))
    new = np.where(draw < lost, 0.0, np.where(draw < lost + gained, 1.0, base))
    return base, new


def paired_verdict(base: np.ndarray, new: np.ndarray) -> Verdict:
    losses = Losses(list(base - new), list(range(len(base))), right_or_wrong=True)
    return decide(estimate(losses, 0.05), *MARGINS, 0.05)


def unpaired_calls_it(base: np.ndarray, new: np.ndarray) -> bool:
    """Two independent standard errors, one-sided 5%: what a harness without pairing does."""
    error = math.sqrt(base.var(ddof=1) / len(base) + new.var(ddof=1) / len(new))
    return float(base.mean() - new.mean()) / error > 1.645


def test_a_two_point_drop_over_a_thousand_documents_is_found_where_the_unpaired_test_misses_it() -> None:
    rng = np.random.default_rng(20)
    trials = [trial(rng, drop=0.02, discordant=0.03, count=1_000) for _ in range(1_000)]
    paired = np.mean([paired_verdict(*one) == Verdict.REGRESSION for one in trials])
    unpaired = np.mean([unpaired_calls_it(*one) for one in trials])
    assert paired >= 0.95
    assert unpaired < 0.5


def test_the_same_model_on_both_sides_raises_no_alarm() -> None:
    rng = np.random.default_rng(21)
    same = (rng.random(1_000) < 0.75).astype(float)
    assert paired_verdict(same, same) == Verdict.PASS


def test_two_models_without_a_drop_are_called_worse_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(22)
    verdicts = [paired_verdict(*trial(rng, drop=0.0, discordant=0.03, count=1_000)) for _ in range(1_000)]
    assert np.mean([verdict == Verdict.REGRESSION for verdict in verdicts]) <= 0.05
    assert np.mean([verdict == Verdict.PASS for verdict in verdicts]) >= 0.9


def test_a_drop_of_just_the_margin_passes_no_more_often_than_the_miss_rate() -> None:
    rng = np.random.default_rng(23)
    verdicts = [paired_verdict(*trial(rng, drop=0.02, discordant=0.05, count=1_000)) for _ in range(1_000)]
    assert np.mean([verdict == Verdict.PASS for verdict in verdicts]) <= 0.07
