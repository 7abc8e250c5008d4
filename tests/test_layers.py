"""The corridor: a module imports only what stands before it. Checked on the source, so lazy imports count too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

DATA = {"errors", "kept", "suite", "records", "corpus", "retrieval"}
CONTRACT = DATA | {"contract"}
MODEL = CONTRACT | {"model"}
COMPILE = CONTRACT | {"compile"}
MEASURE = MODEL | COMPILE | {"measure"}

MAY_IMPORT = {
    "errors": set(),
    "kept": set(),
    "suite": {"errors", "suite"},
    "records": {"errors", "suite", "records"},
    "corpus": {"errors"},
    "retrieval": set(),
    "contract": CONTRACT,
    "model": MODEL,
    "compile": COMPILE,
    "measure": MEASURE,
    "train": MEASURE | {"train"},
    "check": MODEL | {"check"},
    "report": CONTRACT | {"report"},
    "run": MEASURE | {"run"},
    "gate": MEASURE | {"run", "report", "gate"},
}
"""Part of `harness` -> parts that it may import. What is not listed (cli, api ...) may import everything."""

PLUGINS_MAY_IMPORT = {"errors", "contract", "model"}
"""The public contract, and for the built-in native engine the model; never run, report or another plugin."""

GATE_ROOMS = {
    "statistics": {"verdict", "statistics"},
    "output": {"verdict", "output"},
    "judges": {"verdict", "rules", "comparable", "measured", "questions", "statistics", "judges"},
    "baselines": {"verdict", "rules", "comparable", "measured", "compare", "output", "baselines"},
}
"""Folder of the gate -> files and folders of the gate that it may import; `live` and `quality` may import all of it."""

TORCH_FREE = {"errors", "kept", "suite", "records", "corpus", "retrieval", "report", "gate", "cli"}
"""Parts that no module of may import torch, at the top or inside a function."""

TORCH_FREE_FILES = {
    "contract/config.py",
    "contract/facts.py",
    "contract/options.py",
    "contract/planted.py",
    "contract/slots.py",
    "contract/registry.py",
    "contract/hookspecs.py",
    "compile/cache.py",
    "compile/facts.py",
    "compile/pool.py",
    "compile/process.py",
    "compile/target.py",
    "contract/columns.py",
    "contract/__init__.py",
    "model/presets.py",
    "run/cell.py",
    "run/client.py",
    "run/estimate.py",
    "run/former.py",
    "run/identity.py",
    "run/interrupts.py",
    "run/ledger.py",
    "run/machine.py",
    "run/plan.py",
    "run/progress.py",
    "run/protocol.py",
    "run/rounds.py",
    "run/sources.py",
    "run/suite_run.py",
    "run/table.py",
    "run/workers.py",
}


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports at run time, wherever the statement stands."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def harness_files() -> list[Path]:
    return sorted((ROOT / "harness").rglob("*.py"))


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT / "harness").parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", harness_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_before_it(path: Path) -> None:
    allowed = MAY_IMPORT.get(part_of(path))
    if allowed is None:
        return
    parts = {name.split(".")[1] for name in imports_of(path) if name.startswith("harness.")}
    known = {part_of(file) for file in harness_files()}
    assert not (parts & known) - allowed - {part_of(path)}
    assert not any(name.startswith("harness_plugins") for name in imports_of(path))


@pytest.mark.parametrize("room", GATE_ROOMS)
def test_a_room_of_the_gate_imports_only_what_stands_before_it(room: str) -> None:
    files = sorted((ROOT / "harness" / "gate" / room).glob("*.py"))
    imported = {name.split(".")[2] for file in files for name in imports_of(file) if name.startswith("harness.gate.")}
    assert files
    assert not imported - GATE_ROOMS[room]


@pytest.mark.parametrize("path", harness_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_data_report_and_cli_never_import_torch(path: Path) -> None:
    relative = str(path.relative_to(ROOT / "harness"))
    if part_of(path) in TORCH_FREE or relative in TORCH_FREE_FILES:
        assert not [name for name in imports_of(path) if name.split(".")[0] in ("torch", "transformers", "lm_eval")]


def test_the_list_of_torch_free_files_names_files_that_exist() -> None:
    missing = [name for name in TORCH_FREE_FILES if not (ROOT / "harness" / name).exists()]
    assert not missing


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: path.name)
def test_plugins_see_only_the_public_contract(path: Path) -> None:
    parts = {name.split(".")[1] for name in imports_of(path) if name.startswith("harness.")}
    known = {part_of(file) for file in harness_files()}
    assert not (parts & known) - PLUGINS_MAY_IMPORT
