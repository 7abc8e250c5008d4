"""The corpus: split by module, disjoint, stable, hashed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from harness import corpus
from harness.errors import UsageError


def test_no_module_is_on_both_sides() -> None:
    train, held_out = corpus.split("train"), corpus.split("held_out")
    assert not set(train.modules) & set(held_out.modules)
    assert set(train.modules) | set(held_out.modules) <= sys.stdlib_module_names
    assert len(train.text) > 3 * len(held_out.text) > 1_000_000


def test_the_side_depends_on_the_name_alone() -> None:
    # Written down, so that a change of the rule cannot pass unseen: it would put trained text into the held-out side.
    assert [corpus.split_of(name) for name in ("json", "inspect", "argparse", "asyncio")] == [
        "held_out",
        "held_out",
        "train",
        "train",
    ]
    assert "json" in corpus.split("held_out").modules


def test_text_is_the_same_in_another_process() -> None:
    code = "import json; from harness import corpus; print(json.dumps(corpus.text_hashes()))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert json.loads(again) == corpus.text_hashes()
    train = corpus.split("train")
    assert train.sha256 == hashlib.sha256(train.text.encode()).hexdigest()


def test_held_out_text_follows_the_seed_and_starts_a_line() -> None:
    held_out = corpus.split("held_out").text
    pieces = [corpus.held_out_text(500, seed) for seed in range(20)]
    assert pieces == [corpus.held_out_text(500, seed) for seed in range(20)]
    assert len(set(pieces)) == 20
    for piece in pieces:
        assert len(piece) == 500
        assert piece in held_out
        assert ("\n" + piece) in ("\n" + held_out)


def test_asking_for_too_much_text_names_both_figures() -> None:
    with pytest.raises(UsageError, match=r"999999999 characters .* there are \d+"):
        corpus.held_out_text(999_999_999)


def test_a_stripped_interpreter_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UsageError, match="no standard-library sources"):
        corpus.split.__wrapped__("train")


def test_corpus_needs_no_torch() -> None:
    code = "import sys; import harness.corpus; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
