"""The committed JSON schemas are those of the structs that are really used, and real files fit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.json_schemas import json_schemas

FOLDER = Path(__file__).parents[1] / "results" / "schema"


@pytest.mark.parametrize("name", json_schemas())
def test_the_committed_file_is_current(name: str) -> None:
    committed = (FOLDER / name).read_bytes()
    assert committed == json_schemas()[name], "run: python -m harness.json_schemas"


def test_nothing_else_is_committed_there() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(json_schemas())
