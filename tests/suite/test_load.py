"""A suite is checked key by key; whatever is wrong is one message with its line or flag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.suite.load import Changes, load_suite
from tests.suite.suites import line_of, suite_file


def first(data: dict[str, Any]) -> dict[str, Any]:
    return data["tables"]["first"]


def workload(data: dict[str, Any]) -> dict[str, Any]:
    return first(data)["workloads"][0]


def refused(path: Path, changes: Changes | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load_suite(path, changes)
    return caught.value


def test_a_good_suite_loads(tmp_path: Path) -> None:
    loaded = load_suite(suite_file(tmp_path))
    assert loaded.name == "small"
    assert loaded.suite.tables["first"].workloads[0].length == [16, 32]
    assert loaded.suite.tables["first"].variants[0].form == ["mha", "mqa"]


def test_a_tables_sampling_overrides_the_suites_key_by_key(tmp_path: Path) -> None:
    sampling = load_suite(suite_file(tmp_path)).suite.tables["second"].sampling
    assert sampling is not None
    assert (sampling.rounds, sampling.samples, sampling.warmup) == (2, 4, 1)


@pytest.mark.parametrize(
    ("change", "line_with", "parts"),
    [
        (
            lambda d: workload(d).update(lenght=3),
            "lenght",
            ["unknown key in tables.first.workloads.0 'lenght'", "did you mean 'length'?", "batch"],
        ),
        (lambda d: d.update(qestion="x"), "qestion", ["unknown key 'qestion'", "did you mean 'question'?"]),
        (lambda d: first(d).update(baselin={}), "baselin:", ["unknown key in tables.first 'baselin'", "'baseline'"]),
        (
            lambda d: first(d)["variants"][0].update(fom="mha"),
            "fom",
            ["unknown key in tables.first.variants.0 'fom'", "did you mean 'form'?"],
        ),
        (
            lambda d: workload(d).update(kind="prefil"),
            "prefil",
            ["unknown tables.first.workloads.0.kind 'prefil'", "did you mean 'prefill'?", "accuracy, compile, decode"],
        ),
        (
            lambda d: workload(d).update(context="txt"),
            "txt",
            ["tables.first.workloads.0.context 'txt'", "did you mean 'text'?", "allowed: random, text"],
        ),
        (lambda d: d.update(device="gpu"), "device", ["unknown device 'gpu'", "cpu, cuda"]),
        (
            lambda d: workload(d).update(length="many"),
            "many",
            ["tables.first.workloads.0.length is the text 'many'", "a whole number of at least 1 or a list of"],
        ),
        (
            lambda d: d["sampling"].update(timeout="0.5"),
            "timeout",
            ["sampling.timeout is the text '0.5'", "a number above 0", "write it without quotes: 0.5"],
        ),
        (lambda d: d["sampling"].update(rounds=0), "rounds", ["sampling.rounds is the number 0", "at least 1"]),
        (lambda d: d["sampling"].update(rounds=True), "rounds", ["sampling.rounds is true", "a whole number"]),
        (
            lambda d: workload(d).update(length=[8, "x"]),
            "- x",
            ["tables.first.workloads.0.length.1 is the text 'x'", "a whole number of at least 1"],
        ),
        (lambda d: workload(d).update(length=[]), "length: []", ["length is an empty list", "at least one"]),
        (lambda d: workload(d).pop("length"), "kind: prefill", ["workloads.0 has no key 'length'", "a whole number"]),
        (lambda d: workload(d).pop("kind"), "length", ["workloads.0 has no key 'kind'", "decode", "prefill"]),
        (lambda d: d.pop("question"), "sampling", ["has no key 'question'", "it must be text"]),
        (lambda d: d.update(tables={}), "tables", ["tables is an empty mapping", "at least one name"]),
        (lambda d: d.update(tables=[1]), "tables", ["tables is a list", "a mapping of at least one name"]),
        (lambda d: d["tables"].update(first="x"), "first: x", ["tables.first is the text 'x'", "question, checkpoint"]),
        (
            lambda d: d["tables"].update({"a.b": d["tables"].pop("second")}),
            "a.b",
            ["tables has the key 'a.b'", "allowed: names that match"],
        ),
        (lambda d: first(d).update(sampling=3), "sampling: 3", ["tables.first.sampling is the number 3", "rounds"]),
        (lambda d: first(d).update(question=None), "question: null", ["tables.first.question is empty", "text"]),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, change: Callable[[Any], None], line_with: str, parts: list[str]
) -> None:
    path = suite_file(tmp_path, change)
    error = refused(path)
    assert error.where == f"{path}:{line_of(path, line_with)}"
    for part in parts:
        assert part in error.message


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    error = refused(path)
    assert "the file is a list; allowed: a mapping with the keys question, tables" in error.message


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("sampling.round=5", ["unknown key in sampling 'round'", "did you mean 'rounds'?"]),
        ("sampling.rounds=0", ["sampling.rounds is the number 0"]),
        ("sampling.rounds", ["allowed: KEY=VALUE"]),
        ("=5", ["allowed: KEY=VALUE"]),
        ("sampling.timeout=1e-3", ["write 1.0e-3"]),
        ("tables.frist.sampling.rounds=5", ["unknown table 'frist'", "did you mean 'first'?"]),
        ("tables.first.workloads.9.length=5", ["'9' is no position in it, allowed: 0 to 1"]),
        ("question.x=5", ["question is a single value and has no key 'x'"]),
    ],
)
def test_set_is_checked_like_the_file(tmp_path: Path, setting: str, parts: list[str]) -> None:
    error = refused(suite_file(tmp_path), Changes(settings=[setting]))
    assert error.where == f"--set {setting}"
    for part in parts:
        assert part in error.message


def test_set_changes_what_it_names(tmp_path: Path) -> None:
    settings = ["sampling.rounds=7", "tables.first.workloads.0.length=[4, 8]", "tables.second.sampling.rounds=9"]
    suite = load_suite(suite_file(tmp_path), Changes(settings=settings)).suite
    assert suite.sampling.rounds == 7
    assert suite.tables["first"].workloads[0].length == [4, 8]
    assert suite.tables["second"].sampling is not None
    assert suite.tables["second"].sampling.rounds == 9


def test_flags_change_every_table(tmp_path: Path) -> None:
    changes = Changes(checkpoint="v32-layer", device="cpu", threads=1, seed=5, limit=3)
    loaded = load_suite(suite_file(tmp_path), changes)
    assert (loaded.suite.device, loaded.suite.threads, loaded.suite.seed) == ("cpu", 1, 5)
    assert [table.checkpoint for table in loaded.suite.tables.values()] == ["v32-layer", "v32-layer"]
    assert loaded.suite.tables["first"].workloads[1].limit == 3  # type: ignore[union-attr]
    assert loaded.where("tables", "first", "checkpoint") == "--checkpoint v32-layer"


def test_checkpoints_are_relative_to_the_suite_and_flags_to_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites, elsewhere = tmp_path / "suites", tmp_path / "elsewhere"
    (suites / "checkpoints" / "small").mkdir(parents=True)
    (elsewhere / "mine").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    path = suite_file(suites)
    assert load_suite(path).checkpoint("second") == str(suites / "checkpoints" / "small")
    assert load_suite(path).checkpoint("first") == "v32-layer"
    assert load_suite(path, Changes(checkpoint="mine")).checkpoint("second") == str(elsewhere / "mine")


def test_a_suites_plugin_files_are_relative_to_it(tmp_path: Path) -> None:
    loaded = load_suite(suite_file(tmp_path, lambda d: d.update(plugins=["mine.py", "package.module"])))
    assert loaded.plugins == [str(tmp_path / "mine.py"), "package.module"]
