"""Answers of several cells taken together."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.records.metrics import METRICS
from harness.records.paired import paired_difference
from harness.records.record import Record
from harness.report import render
from harness.report.collect import collect
from harness.report.pooled import pooled
from harness.suite.variant import Variant
from tests.report.planted import DSA, MHA, MQA, accuracy, record, run


def cell(variant: Variant, task: str, scores: list[int], length: int = 512) -> Record:
    return record("accuracy", variant, accuracy("exact_match", scores), tasks=task, length=length)


def test_documents_of_all_tasks_and_lengths_count_once_and_share_a_unit_where_they_share_a_text(tmp_path: Path) -> None:
    right = [1] * 50
    cells = [cell(MHA, "needle", right), cell(MHA, "tracking", right), cell(MHA, "needle", right, 1024)]
    cells += [cell(MQA, "needle", [0] * 5 + [1] * 45), cell(MQA, "tracking", [1] * 40 + [0] * 10)]
    cells += [cell(MQA, "needle", right, 1024)]
    store = run(tmp_path, cells)
    [found] = pooled(collect([store])[0])
    texts = [max(number, 1) for number in range(50)]
    units = [(512, text) for text in texts] * 2 + [(1024, text) for text in texts]
    changes = [-1.0] * 5 + [0.0] * 45 + [0.0] * 40 + [-1.0] * 10 + [0.0] * 50
    assert found.difference == paired_difference(changes, units, right_or_wrong=True)
    assert (found.variant, found.metric, found.cells) == (MQA, "exact_match", 3)
    assert found.difference.units == 98
    text = " ".join(render([store], "terminal").split())
    assert "form mqa, selector dense: exact match over 3 cells with 150 documents -10.00 points" in text
    assert "15 lost and 0 gained" in text


def test_cells_that_cannot_be_paired_are_left_out(tmp_path: Path) -> None:
    base, longer = [1, 0, 1, 1], [1, 0, 1, 1, 1]
    cells = [cell(MHA, task, base) for task in ("needle", "needles", "tracking")]
    cells += [cell(MQA, "needle", base), cell(MQA, "needles", longer), cell(MQA, "tracking", base)]
    cells += [cell(DSA, "needle", base), cell(DSA, "needles", longer)]
    found = pooled(collect([run(tmp_path, cells)])[0])
    assert [(one.variant, one.cells, one.difference.documents) for one in found] == [(MQA, 2, 8)]


def test_scores_that_are_not_right_or_wrong_are_not_pooled(tmp_path: Path) -> None:
    cells = [
        record(
            "accuracy", variant, accuracy("bits_per_byte", [1.5, 1.6, 1.7], better="lower"), tasks="bits", length=length
        )
        for variant in (MHA, MQA)
        for length in (512, 1024)
    ]
    assert "bits_per_byte" in METRICS
    assert pooled(collect([run(tmp_path, cells)])[0]) == []


@pytest.mark.parametrize("other", [{"sha256": "cd" * 32, "name": "other"}])
def test_unlike_weights_are_never_pooled(tmp_path: Path, other: dict[str, str]) -> None:
    cells = [cell(variant, "needle", [1, 0, 1], length) for variant in (MHA, MQA) for length in (512, 1024)]
    unlike = [
        record("accuracy", variant, accuracy("exact_match", [1, 0, 1]), tasks="needle", length=512, checkpoint=other)
        for variant in (MHA, MQA)
    ]
    stores = [run(tmp_path, cells), run(tmp_path, unlike, name="planted", started="2026-11-22T10:00:00+00:00")]
    assert pooled(collect(stores)[0]) == []
