"""Which code a record speaks of: hashes of the source files that decide its value, not of a commit.

A commit says too little (uncommitted changes) and too much (a changed README). What counts is what a worker can
import for one variant: the code that every worker runs, and the files reachable from each of the variant's options.
Found by reading imports from the sources, never by importing, so that it is torch-free and exact per option.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.contract.options import Option
from harness.contract.registry import Registry
from harness.suite.variant import Variant

CORE = ("run/worker.py", "measure/*.py")
"""Where the search for code that decides every cell starts; task files name functions in `measure`."""

BESIDES = ("run/table.py", "run/cell.py", "tasks/*")
"""Files of the package that a worker does not import and that decide values too: who gets a turn, and task files."""

NATIVE = frozenset({".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".ptx", ".cubin", ".so"})
"""Suffixes of sources and binaries that count when they lie beside a Python file that does."""

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.\w+)+(:\w+)?")
"""A text that names a module, perhaps with an attribute: `harness.measure.decode:DecodeMeasurement`."""


@functools.cache
def core_digest() -> str:
    """Of everything that decides the cells of every variant."""
    package = Path(__file__).resolve().parents[1]
    starts = [f"harness.{path.parent.name}.{path.stem}" for pattern in CORE for path in package.glob(pattern)]
    besides = [path for pattern in BESIDES for path in package.glob(pattern) if path.is_file()]
    return digest({*_reachable(starts), *besides})


def variant_digest(registry: Registry, variant: Variant) -> str:
    """Of everything that a worker of this variant may load: core, its options, and plugins whose hooks wrap cells."""
    starts = [_factory_module(registry.option(axis, name)) for axis, name in variant.items()]
    for hook in (registry.manager.hook.harness_wrap_cell, registry.manager.hook.harness_context):
        starts += [implementation.function.__module__ for implementation in hook.get_hookimpls()]
    files = _reachable(dict.fromkeys(starts))
    return hashlib.sha256(f"{core_digest()} {digest(files)}".encode()).hexdigest()[:16]


def digest(files: Iterable[Path]) -> str:
    """16 hex digits over names and contents; where the files lie does not count."""
    lines = sorted(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _factory_module(option: Option) -> str:
    """The module in which an option's factory is written."""
    factory: Any = option.factory
    if isinstance(factory, str):
        return factory.partition(":")[0]
    while isinstance(factory, functools.partial):
        factory = factory.func
    return str(getattr(factory, "__module__", None) or type(factory).__module__)


def _reachable(starts: Iterable[str]) -> set[Path]:
    """The files of `starts` and of all own code that they refer to, however far away."""
    todo, seen, files = list(starts), set(starts), set()
    while todo:
        module = todo.pop()
        for path in _files_of(module):
            files.add(path)
            files.update(one for one in path.parent.iterdir() if one.suffix in NATIVE)
            for name in _mentioned(path, module):
                if name not in seen and _follows(module, name):
                    seen.add(name)
                    todo.append(name)
    return files


def _files_of(module: str) -> list[Path]:
    """The module's file and those of the packages around it; of `package.module.attribute` those that are there."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if "." not in module and loaded:
        return [Path(loaded)]
    spec = _find(module.split(".")[0])
    if spec is None or not spec.origin:
        return []
    files, place = [Path(spec.origin)], Path(spec.origin).parent
    for part in module.split(".")[1:]:
        place = place / part
        files += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()][:1]
    return files


@functools.cache
def _mentioned(path: Path, module: str) -> frozenset[str]:
    """Every module that a Python file may import, as far as its text tells."""
    if path.suffix != ".py":
        return frozenset()
    tree = ast.parse(path.read_bytes())
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    imported = {name for node in ast.walk(tree) for name in _imports(node, package)}
    registers = any(isinstance(node, ast.FunctionDef) and node.name == "harness_options" for node in tree.body)
    if registers:  # it names the modules of all its options; which of them count is asked option by option
        return frozenset(imported)
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return frozenset(imported | {text.partition(":")[0] for text in texts if REFERENCE.fullmatch(text)})


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _follows(module: str, name: str) -> bool:
    """The package names plugins only to register them: from there it is not followed into any."""
    inside = name.split(".")[0] == "harness"
    return inside or (module.split(".")[0] != "harness" and _own_code(name))


def _own_code(module: str) -> bool:
    """Whether a module is the project's or a user's, rather than of the standard library or an installed package.

    A plugin installed as a package is known by its version and by the files that its options name.
    """
    top = module.split(".")[0]
    spec = None if top in sys.stdlib_module_names else _find(top)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return False
    installed = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
    return not any(Path(spec.origin).is_relative_to(place) for place in installed)


@functools.cache
def _find(top: str) -> Any:
    """Where a top-level module would be imported from; looking does not import it."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
