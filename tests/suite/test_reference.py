"""Which cell a cell is held against."""

from __future__ import annotations

import pytest

from harness.suite.cell import CellId
from harness.suite.reference import reference_of
from harness.suite.variant import Variant

BASE = Variant("native", "mha", "dense", "fp32", "latent", "eager", "plain")
MQA = BASE.with_options({"form": "mqa"})
DSA = BASE.with_options({"selector": "dsa"})
MQA_DSA = MQA.with_options({"selector": "dsa"})


def cells(*variants: Variant, kind: str = "decode", length: int = 512, table: str = "t") -> list[CellId]:
    return [CellId(table, {"kind": kind, "length": length}, variant) for variant in variants]


@pytest.mark.parametrize("kind", ["prefill", "decode", "generate"])
def test_timed_cells_are_held_against_the_baseline_or_the_first_of_their_selector(kind: str) -> None:
    mqa, dsa, base, mqa_dsa = group = cells(MQA, DSA, BASE, MQA_DSA, kind=kind)
    found = [reference_of(cell, group, BASE) for cell in group]
    assert found == [base, None, None, dsa]
    assert reference_of(mqa, [mqa, dsa, mqa_dsa], BASE) is None  # the baseline cannot run: the next one leads


def test_only_the_same_workload_of_the_same_table_counts() -> None:
    (cell,) = cells(MQA)
    assert reference_of(cell, [cell, *cells(BASE, length=1024), *cells(BASE, table="u")], BASE) is None


def test_equivalence_is_held_against_the_baseline_even_when_it_cannot_run() -> None:
    base, dsa = cells(BASE, DSA, kind="equivalence")
    assert reference_of(dsa, [dsa], BASE) == base
    assert reference_of(base, [base, dsa], BASE) is None


def test_accuracy_is_held_against_nothing() -> None:
    base, mqa = cells(BASE, MQA, kind="accuracy")
    assert reference_of(mqa, [base, mqa], BASE) is None


def test_references_have_no_reference() -> None:
    group = cells(DSA, MQA, MQA_DSA, BASE)
    for cell in group:
        reference = reference_of(cell, group, BASE)
        assert reference is None or reference_of(reference, group, BASE) is None
