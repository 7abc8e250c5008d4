"""`harness plan SUITE --detect 5%` on a stored run: pairs and seconds for times, documents for scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.cli.detecting import Effect, effect_from
from harness.cli.main import main
from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.records.metrics import metric
from harness.records.record import Block, Record, Status
from harness.records.store import RunFolder, TableHeader
from harness.suite.cell import CellId

SUITE = """
question: How long would it take?
threads: 1
tables:
  t:
    question: Which form?
    checkpoint: tiny-v3
    baseline: {form: mha}
    variants: [{form: [mha, mqa]}]
    workloads:
      - {kind: prefill, length: 32, context: random}
      - {kind: decode, length: 32, context: random}
"""

VARIANTS = [Registry([], entry_points=False).variant({"engine": "native", "form": form}) for form in ("mha", "mqa")]
PREFILL = {"kind": "prefill", "length": 32, "batch": 1, "context": "random"}


def times(variant_index: int, noise: float) -> Record:
    """A prefill record of three processes with six turns each."""
    rng = np.random.default_rng(variant_index)
    turns = 20.0 * np.exp(noise / np.sqrt(2) * rng.standard_normal((3, 6)))
    blocks = [Block(process, number, 0, 0.02, {"ttft": 1}) for process in range(3) for number in range(6)]
    variant = VARIANTS[variant_index]
    cell = CellId("t", PREFILL, variant).id
    metrics = {"ttft": metric("ttft", turns.ravel())}
    return Record(cell, "t", variant, PREFILL, Status.PASSED, metrics=metrics, blocks=blocks)


def stored(folder: Path, records: list[Record]) -> Path:
    """A suite and a run of it; returns the suite."""
    suite = folder / "small.yaml"
    suite.write_text(SUITE)
    run = RunFolder.create(folder / "results", "small", {}, {}, {"t": TableHeader("", VARIANTS[0], VARIANTS, 4)})
    for record in records:
        run.append(record)
    return suite


def needs(suite: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, str]]:
    assert main(["plan", str(suite), "--out", str(suite.parent / "results"), "--format", "json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_timed_cell_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = needs(stored(tmp_path, [times(0, 0.02), times(1, 0.02)]), capsys, "--detect", "5%")
    assert [(row["form"], row["metric"]) for row in rows] == [(f, m) for m in ("ttft", "tpot") for f in ("mha", "mqa")]
    for row in rows[:2]:
        assert row["noise"].endswith("% a pair")
        assert float(row["changed"].split(" pairs, ")[0]) >= 14
        assert row["restarts"] == "3"
    assert {row["note"] for row in rows[2:]} == {"no stored run to take the noise from"}


def test_smaller_effects_take_longer_until_noise_hides_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = stored(tmp_path, [times(0, 0.1), times(1, 0.1)])
    pairs = [int(needs(suite, capsys, "--detect", text)[0]["changed"].split()[0]) for text in ("60%", "8%")]
    assert pairs[0] < pairs[1]
    hidden = needs(suite, capsys, "--detect", "0.5%")[0]
    assert hidden["changed"] == "more than the cap"
    assert hidden["note"].startswith("too noisy; smallest effect seen")


def test_people_get_a_table_and_the_whole_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = stored(tmp_path, [times(0, 0.02), times(1, 0.02)])
    assert main(["plan", str(suite), "--out", str(tmp_path / "results"), "--detect", "5%"]) == 0
    text = capsys.readouterr().out
    assert "to see 5% of a time or score" in text
    assert "of worker starts" in text


# --- documents ------------------------------------------------------------------------------------------

CHECKPOINT = Path(__file__).parents[2] / "suites" / "checkpoints" / "reference"
ACCURACY = {"kind": "accuracy", "tasks": "continuation", "length": 256, "limit": 40, "batch": 8}
SCORED = f"""
question: How many documents would it take?
threads: 1
tables:
  t:
    question: Which form?
    checkpoint: {CHECKPOINT}
    baseline: {{form: mha}}
    variants: [{{form: [mha, mqa]}}]
    workloads: [{{kind: accuracy, tasks: continuation, length: 256, limit: 40}}]
"""


def scored(folder: Path, wrong: int) -> Path:
    """A run in which the first `wrong` of 40 documents are right under the baseline only; returns its suite."""
    suite = stored(folder, [])
    suite.write_text(SCORED)
    run = RunFolder.open(next((folder / "results").iterdir()))
    for index, variant in enumerate(VARIANTS):
        right = [index == 0 or number >= wrong for number in range(40)]
        documents = [
            {"task": "c", "doc_id": number, "filter": "none", "doc_hash": str(number), "scores": {"acc": float(one)}}
            for number, one in enumerate(right)
        ]
        cell = CellId("t", ACCURACY, variant)
        metrics = {"acc": metric("acc", [float(one) for one in right])}
        file = run.write_samples(cell, documents)
        run.append(Record(cell.id, "t", variant, ACCURACY, Status.PASSED, metrics=metrics, samples_file=file))
    return suite


def test_scores_say_how_many_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = scored(tmp_path, wrong=4)
    counts = []
    for effect in ("2pt", "1pt"):
        rows = needs(suite, capsys, "--detect", effect)
        assert [row["metric"] for row in rows] == ["acc", "acc"]
        assert {row["note"] for row in rows} == {"the stored run had 40"}
        counts.append(int(rows[1]["changed"].removesuffix(" documents").replace(",", "")))
    assert counts[1] == pytest.approx(4 * counts[0], rel=0.01)


def test_fewer_flips_need_fewer_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for wrong in (2, 8):
        folder = tmp_path / str(wrong)
        folder.mkdir()
        row = needs(scored(folder, wrong), capsys, "--detect", "1pt")[1]
        counts.append(int(row["changed"].removesuffix(" documents").replace(",", "")))
    assert counts[0] < counts[1]


# --- what is asked for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "effect"),
    [
        (["5%"], Effect(0.05, 0.05)),
        (["2.5%"], Effect(0.025, 0.025)),
        (["0.5pt"], Effect(0.05, 0.005)),
        (["1pt", "3%"], Effect(0.03, 0.01)),
    ],
)
def test_effects_are_read(texts: list[str], effect: Effect) -> None:
    found = effect_from(texts)
    assert (found.relative, found.points) == pytest.approx((effect.relative, effect.points))


@pytest.mark.parametrize("text", ["5", "five", "0%", "-1%", "5 %", "pt"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--detect"):
        effect_from([text])
