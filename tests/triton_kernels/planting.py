"""The kernel set with a fault in one kernel: a copy of the whole package in which one piece of text is another."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import harness_plugins.triton_kernels as package
import pytest

from harness.contract.operators import Operators


@dataclass(frozen=True)
class Fault:
    """What is written instead of what, in which file of the package, and the slot whose check must notice."""

    kind: str
    slot: str
    file: str
    sound: str
    faulty: str

    @property
    def id(self) -> str:
        """What pytest calls it."""
        return f"{self.slot}: {self.kind}" + (f" ({self.file})" if self.file != self.slot else "")


def planted(fault: Fault, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Operators:
    """Kernels compiled, or interpreted, from the faulty text; fails where the sound text does not stand just once."""
    copy = folder / f"planted_{folder.name}"
    shutil.copytree(Path(package.__path__[0]), copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file in copy.glob("*.py"):
        file.write_text(file.read_text().replace(package.__name__, copy.name))
    path = copy / f"{fault.file}.py"
    text = path.read_text()
    assert text.count(fault.sound) == 1, f"{fault.file}.py has {text.count(fault.sound)} times: {fault.sound}"
    path.write_text(text.replace(fault.sound, fault.faulty))
    monkeypatch.syspath_prepend(folder)
    operators: Operators = importlib.import_module(f"{copy.name}.operators").operators()
    return operators
