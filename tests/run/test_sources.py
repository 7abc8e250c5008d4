"""A hash of code changes when a file that a variant runs changes, and never when another one does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.contract.registry import Registry
from harness.run import sources
from harness.run.sources import core_digest, digest, variant_digest

REGISTRATION = """
from harness.contract import Option, hookimpl


@hookimpl
def harness_options():
    return [
        Option("kernels", "fast", "my_kernels.fast:OPERATORS", "one"),
        Option("kernels", "small", lambda: __import__("my_kernels.small"), "written here"),
    ]
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two kernel sets; `fast` imports `tiles` late, and has a CUDA file beside it."""
    package = tmp_path / "my_kernels"
    package.mkdir()
    files = {
        "__init__.py": "",
        "plugin.py": REGISTRATION,
        "fast.py": "def OPERATORS():\n    from . import tiles\n    import json\n    import torch\n",
        "tiles.py": "SIZE = 64\n",
        "small.py": "OPERATORS = None\n",
        "deep/__init__.py": "",
        "deep/kernel.cu": "// one\n",
        "deep/launch.py": "from ..tiles import SIZE\n",
    }
    for name, text in files.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield package
    for name in [name for name in sys.modules if name.startswith("my_kernels")]:
        del sys.modules[name]
    forget()


def forget() -> None:
    """Sources are read once a process; a test changes them."""
    importlib.invalidate_caches()
    for cached in (sources._mentioned, sources._find, sources.core_digest):
        cached.cache_clear()


def code_of(kernels: str) -> str:
    forget()
    registry = Registry(["my_kernels.plugin"], entry_points=False)
    return variant_digest(registry, registry.variant({"kernels": kernels}))


def test_a_changed_kernel_is_another_code_and_an_unchanged_one_is_not(plugin: Path) -> None:
    fast, eager = code_of("fast"), code_of("eager")
    assert code_of("fast") == fast
    (plugin / "tiles.py").write_text("SIZE = 128\n")
    assert code_of("fast") != fast
    assert code_of("eager") == eager


def test_what_the_variant_does_not_import_does_not_count(plugin: Path) -> None:
    fast = code_of("fast")
    (plugin / "small.py").write_text("OPERATORS = 1\n")
    (plugin / "plugin.py").write_text(REGISTRATION + "# a remark\n")
    assert code_of("fast") == fast


def test_a_factory_written_in_the_plugin_counts_with_the_plugin(plugin: Path) -> None:
    small = code_of("small")
    (plugin / "plugin.py").write_text(REGISTRATION + "# a remark\n")
    del sys.modules["my_kernels.plugin"]
    assert code_of("small") != small


def test_cuda_files_beside_a_module_count(plugin: Path) -> None:
    (plugin / "fast.py").write_text('LAUNCH = "my_kernels.deep.launch:run"\n')
    fast = code_of("fast")
    (plugin / "deep" / "kernel.cu").write_text("// two\n")
    assert code_of("fast") != fast


def test_names_and_contents_count_and_places_do_not(tmp_path: Path) -> None:
    for place, name, text in (("a", "x.py", "1"), ("b", "x.py", "1"), ("c", "x.py", "2"), ("d", "y.py", "1")):
        (tmp_path / place / "p").mkdir(parents=True)
        (tmp_path / place / "p" / name).write_text(text)
    digests = [digest((tmp_path / place / "p").iterdir()) for place in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_the_core_is_what_workers_run_and_task_files() -> None:
    package = Path(sources.__file__).parents[1]
    counted = {str(path.relative_to(package)) for path in sources._reachable(["harness.run.worker"])}
    assert {"run/worker.py", "run/protocol.py", "measure/timed.py", "measure/decode.py", "corpus.py"} <= counted
    assert not any(name.startswith(("report/", "cli/", "gate/", "train/")) for name in counted)
    assert len(core_digest()) == 16


def test_built_in_variants_reach_their_own_files_alone() -> None:
    registry = Registry(entry_points=False)

    def files(**choices: str) -> set[str]:
        variant = registry.variant(choices)
        starts = [sources._factory_module(registry.option(axis, name)) for axis, name in variant.items()]
        return {path.name for path in sources._reachable(starts)}

    assert {"eager_index.py", "native_forms.py", "transformer.py"} <= files()
    assert "hf_runner.py" not in files()
    assert "hf_runner.py" in files(engine="hf")
    assert not {"eager_index.py", "transformer.py"} & files(engine="hf")
