"""What is kept comes back whole, or is found out again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kept import Kept, cache_folder


def test_a_value_comes_back_under_its_key_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path, list[int])
    kept.put("abc", [1, 2])
    assert kept.get("abc") == [1, 2]
    assert kept.get("abd") is None
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b"[1,", b'{"a": 1}', b'["1"]'])
def test_a_file_with_anything_else_in_it_counts_as_none(content: bytes, tmp_path: Path) -> None:
    kept = Kept(tmp_path, list[int])
    kept.put("abc", [1])
    next(tmp_path.rglob("*.json")).write_bytes(content)
    assert kept.get("abc") is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Kept(tmp_path / "file", list[int])
    kept.put("abc", [1])
    assert kept.get("abc") is None


def test_the_folder_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("tokens") == tmp_path / "deepseek-harness" / "tokens"
