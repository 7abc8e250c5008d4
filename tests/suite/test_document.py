"""Strict YAML: nothing is read differently from how it looks, and every value knows its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.suite.document import parse_document, parse_value, read_document


def test_plain_values_have_the_types_that_they_look_like() -> None:
    text = "a: 1\nb: -2.5\nc: 1.0e-3\nd: true\ne: null\nf: words and 3 more\ng: '12:30'\nh: [0x10, ~, .5]\n"
    assert parse_document(text, "s.yaml").data == {
        "a": 1,
        "b": -2.5,
        "c": 0.001,
        "d": True,
        "e": None,
        "f": "words and 3 more",
        "g": "12:30",
        "h": [16, None, 0.5],
    }


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("1e-3", "write 1.0e-3 for the number"),
        ("1.5e3", "write 1.5e+3 for the number"),
        ("no", "write false, or 'no' for text"),
        ("On", "write true, or 'On' for text"),
        ("12:30", "read as 750 by some YAML readers"),
        ("017", "read as 15 by some YAML readers"),
        ("1_000", "write 1000 for the number"),
        ("2026-01-01", "write '2026-01-01' for text"),
        (".inf", "not a finite number"),
        ("1.0e+999", "not a finite number"),
    ],
)
def test_a_word_that_readers_disagree_on_is_refused_with_advice(word: str, advice: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_document(f"outer:\n  - fine\n  - key: {word}\n", "s.yaml")
    assert caught.value.where == "s.yaml:3"
    assert "outer.1.key" in caught.value.message
    assert advice in caught.value.message


def test_the_same_words_are_text_in_quotes() -> None:
    assert parse_document("['1e-3', \"no\", '12:30', '2026-01-01']", "s.yaml").data == [
        "1e-3",
        "no",
        "12:30",
        "2026-01-01",
    ]


def test_a_repeated_key_names_both_lines() -> None:
    with pytest.raises(UsageError) as caught:
        parse_document("a:\n  rounds: 1\n  samples: 2\n  rounds: 3\n", "s.yaml")
    assert str(caught.value) == "s.yaml:4: key 'a.rounds' is given twice, in line 2 and in line 4"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1, 2\nb: 3\n", "not valid YAML"),
        ("a: !!python/object:os.system x\n", "is not allowed"),
        ("1: x\n", "keys are names"),
        ("? [a]\n: x\n", "keys are names"),
        ("&a [*a]\n", "contains itself"),
        ("", "empty"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: b: c\n", "not valid YAML"),
        ("<<: {a: 1}\n", "write '<<' for text"),
    ],
)
def test_anything_but_one_plain_document_is_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=r"^s\.yaml") as caught:
        parse_document(text, "s.yaml")
    assert part in caught.value.message


def test_aliases_share_values() -> None:
    assert parse_document("a: &x [1, 2]\nb: *x\n", "s.yaml").data == {"a": [1, 2], "b": [1, 2]}


def test_where_names_the_line_or_the_nearest_parent() -> None:
    document = parse_document("a:\n  b:\n    - x\n    - c: 1\n", "s.yaml")
    assert document.where("a", "b", 1, "c") == "s.yaml:4"
    assert document.where("a", "b", 1, "missing") == "s.yaml:4"
    assert document.where("a", "missing") == "s.yaml:1"
    assert document.where("missing") == "s.yaml:1"


def test_set_replaces_adds_and_remembers_where_from() -> None:
    document = parse_document("a:\n  b: [1, 2]\n", "s.yaml")
    document.set(("a", "b", 1), 5, "--set a.b.1=5")
    document.set(("new", "key"), "x", "--set new.key=x")
    assert document.data == {"a": {"b": [1, 5]}, "new": {"key": "x"}}
    assert document.where("a", "b", 1) == "--set a.b.1=5"
    assert document.where("new", "key") == "--set new.key=x"
    assert document.where("a", "b", 0) == "s.yaml:2"


@pytest.mark.parametrize(("path", "part"), [(("a", 7), "allowed: 0 to 1"), (("a", 0, "x"), "is a single value")])
def test_set_refuses_paths_that_lead_nowhere(path: tuple[str | int, ...], part: str) -> None:
    document = parse_document("a: [1, 2]\n", "s.yaml")
    with pytest.raises(UsageError, match=r"^--set") as caught:
        document.set(path, 1, "--set here")
    assert part in caught.value.message


def test_values_after_set_follow_the_rules_of_the_file() -> None:
    assert parse_value("[512, 2048]", "--set") == [512, 2048]
    assert parse_value("", "--set") is None
    with pytest.raises(UsageError, match=r"write 1\.0e-3"):
        parse_value("1e-3", "--set")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1\n")
    with pytest.raises(UsageError, match=r"did you mean '.*quickstart\.yaml'"):
        read_document(tmp_path / "quickstrat.yaml")
    with pytest.raises(UsageError, match="there is no folder"):
        read_document(tmp_path / "nowhere" / "quickstart.yaml")


def test_unreadable_files_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"question: \xe9\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_document(tmp_path / "latin.yaml")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_document(tmp_path)
