"""Lists multiply out into variants, workloads and cells, each name checked with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.suite.expand import ExpandedTable, expand
from harness.suite.load import load_suite
from tests.suite.suites import line_of, suite_file


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(entry_points=False)


def tables(path: Path, registry: Registry, *only: str) -> list[ExpandedTable]:
    return expand(load_suite(path), registry, only)


def test_lists_multiply_out_in_the_order_of_the_file(tmp_path: Path, registry: Registry) -> None:
    first = tables(suite_file(tmp_path), registry)[0]
    assert [(one.engine, one.form, one.selector) for one in first.variants] == [
        ("native", "mha", "dense"),
        ("native", "mha", "dsa"),
        ("native", "mqa", "dense"),
        ("native", "mqa", "dsa"),
        ("hf", "mha", "dense"),
    ]
    assert [one.label for one in first.workloads] == [
        "prefill length=16",
        "prefill length=16 batch=2",
        "prefill length=32",
        "prefill length=32 batch=2",
        "accuracy tasks=one length=8",
        "accuracy tasks=one length=16",
        "accuracy tasks=two length=8",
        "accuracy tasks=two length=16",
    ]
    assert len(first.cells()) == 40


def test_a_cell_stores_every_key_of_its_workload(tmp_path: Path, registry: Registry) -> None:
    first = tables(suite_file(tmp_path), registry)[0]
    assert first.cells()[0].workload == {"kind": "prefill", "length": 16, "batch": 1, "context": "text"}
    assert first.cells()[0].id == (
        "first:prefill[batch=1,context=text,length=16]:native/mha/dense/fp32/latent/eager/plain"
    )


def test_duplicates_are_removed(tmp_path: Path, registry: Registry) -> None:
    def change(data: dict[str, Any]) -> None:
        table = data["tables"]["second"]
        table["variants"] = [{"form": "mqa"}, {"form": ["mqa", "mha"], "precision": "fp32"}]
        table["workloads"] = [{"kind": "decode", "length": [64, 64]}, {"kind": "decode", "length": 64, "batch": 1}]

    second = tables(suite_file(tmp_path, change), registry)[1]
    assert [variant.form for variant in second.variants] == ["mqa", "mha"]
    assert len(second.cells()) == 2


@pytest.mark.parametrize(
    ("change", "line_with", "parts"),
    [
        (lambda t: t["variants"][0].update(form=["mha", "mqq"]), "mqq", ["form 'mqq'", "did you mean 'mqa'?"]),
        (lambda t: t["variants"][0].update(selector="sparse"), "sparse", ["selector 'sparse'", "dense", "dsa"]),
        (lambda t: t["variants"][1].update(engine="hff"), "hff", ["engine 'hff'", "did you mean 'hf'?"]),
        (lambda t: t["baseline"].update(form="mla"), "mla", ["form 'mla'"]),
        (
            lambda t: t["baseline"].update(form="auto"),
            "baseline",
            ["native/auto/", "is not among the variants: native/mha/"],
        ),
    ],
)
def test_wrong_names_are_refused_with_their_line(
    tmp_path: Path, registry: Registry, change: Callable[[Any], None], line_with: str, parts: list[str]
) -> None:
    path = suite_file(tmp_path, lambda data: change(data["tables"]["first"]))
    with pytest.raises(UsageError) as caught:
        tables(path, registry)
    assert str(caught.value.where).startswith(str(path))
    assert caught.value.where in (f"{path}:{line_of(path, line_with)}", f"{path}:{line_of(path, line_with) + 1}")
    for part in parts:
        assert part in caught.value.message


def test_only_narrows_and_keeps_the_baseline(tmp_path: Path, registry: Registry) -> None:
    left = tables(suite_file(tmp_path), registry, "form=mqa", "selector=dsa")
    assert [table.name for table in left] == ["first"]
    assert [(one.form, one.selector) for one in left[0].variants] == [("mha", "dense"), ("mqa", "dsa")]


def test_only_adds_up_within_an_axis_and_picks_tables(tmp_path: Path, registry: Registry) -> None:
    assert len(tables(suite_file(tmp_path), registry, "form=mha", "form=mqa")[0].variants) == 5
    assert [table.name for table in tables(suite_file(tmp_path), registry, "table=second")] == ["second"]


@pytest.mark.parametrize(
    ("only", "parts"),
    [
        ("form", ["allowed: AXIS=NAME"]),
        ("frm=mqa", ["unknown axis 'frm'", "did you mean 'form'?"]),
        ("form=mqq", ["unknown form 'mqq'", "did you mean 'mqa'?"]),
        ("table=frist", ["unknown table 'frist'", "did you mean 'first'?"]),
        ("precision=bf16", ["no variant of the suite is left", "native/mqa/dsa/fp32"]),
    ],
)
def test_only_is_checked(tmp_path: Path, registry: Registry, only: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        tables(suite_file(tmp_path), registry, only)
    assert caught.value.where == f"--only {only}"
    for part in parts:
        assert part in caught.value.message
