"""Real text for training, prompts and tasks: the running interpreter's own standard library.

It is on every machine that can run this project, needs no download and is nobody's secret; nothing of it is
copied into the repository. What it says depends on the interpreter's version, so every record carries the
hashes of both splits, and results over unlike text are not compared.
"""

from __future__ import annotations

import functools
import hashlib
import random
import sys
import sysconfig
from pathlib import Path
from typing import Literal

import msgspec

from harness.errors import UsageError

SplitName = Literal["train", "held_out"]

HELD_OUT_BYTES = 26
"""A module is held out when the first byte of its name's SHA-256 is below this: about a tenth of the modules."""

GENERATED = frozenset({"encodings", "pydoc_data"})
"""Packages that are tables written by programs, not code written by people."""

TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "__pycache__"})


class Split(msgspec.Struct, frozen=True):
    """One side of the corpus."""

    name: SplitName
    modules: tuple[str, ...]
    """Top-level module names, sorted; a package counts as one module, so that no package is on both sides."""
    text: str
    sha256: str
    """Of the UTF-8 text."""


def split_of(module: str) -> SplitName:
    """The side that a top-level module belongs to; depends on its name alone, so it is the same everywhere."""
    return "held_out" if hashlib.sha256(module.encode()).digest()[0] < HELD_OUT_BYTES else "train"


@functools.cache
def split(name: SplitName) -> Split:
    """Read one side of the corpus: every source file of its modules in sorted order, joined by newlines.

    Raises UsageError when this interpreter has no standard-library sources (a zipped or stripped installation).
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = {module: _sources(root, module) for module in _modules() if split_of(module) == name}
    files = {module: paths for module, paths in files.items() if paths}
    if not files:
        raise UsageError("no standard-library sources there; an unstripped Python installation is needed", str(root))
    text = "\n".join(path.read_text("utf-8") for paths in files.values() for path in paths)
    return Split(name, tuple(files), text, hashlib.sha256(text.encode()).hexdigest())


def text_hashes() -> dict[str, str]:
    """SHA-256 of both sides, for a record's context."""
    return {name: split(name).sha256 for name in ("train", "held_out")}


def held_out_text(characters: int, seed: int = 0) -> str:
    """A seeded stretch of held-out text that starts at the beginning of a line.

    Raises UsageError when more characters are asked for than the held-out side has.
    """
    text = split("held_out").text
    if characters > len(text):
        raise UsageError(f"{characters} characters of held-out text were asked for; there are {len(text)}")
    start = random.Random(seed).randrange(len(text) - characters + 1)
    start = text.rfind("\n", 0, start) + 1
    return text[start : start + characters]


def _modules() -> list[str]:
    return sorted(sys.stdlib_module_names - GENERATED)


def _sources(root: Path, module: str) -> list[Path]:
    """A module's own file, or every file of its package but tests; empty for extension modules."""
    file = root / f"{module}.py"
    if file.is_file():
        return [file]
    paths = (root / module).rglob("*.py")
    return sorted(path for path in paths if not TEST_FOLDERS & set(path.relative_to(root).parts))
