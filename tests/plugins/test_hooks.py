"""Every hook where it counts: in a run of two plugins over the fake engine, and in its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fake_suite import FakeSuite, fake_suite

WRAP = """
from contextlib import contextmanager
from harness.contract import Column, hookimpl

def note(text):
    with open({log!r}, "a") as log:
        log.write(text + "\\n")

@hookimpl
def harness_wrap_cell(cell):
    @contextmanager
    def wrapped():
        note(f"enter {name} {{cell.workload['length']}}")
        yield
        note(f"leave {name} {{cell.workload['length']}}")
    return wrapped()

@hookimpl
def harness_context():
    return {{"clock_of_{name}": 1700}}

@hookimpl
def harness_report_columns():
    return [Column("{name}_says", lambda record: f"{name}{{record['workload']['length']}}")]
"""

CLASH = """
from harness.contract import hookimpl

@hookimpl
def harness_context():
    return {"threads": 99}
"""

Write = Callable[[str, str], list[str]]


@pytest.fixture
def suite(tmp_path: Path) -> FakeSuite:
    return fake_suite(tmp_path, ["sound"], [5, 6])


@pytest.fixture
def plugin(tmp_path: Path) -> Write:
    """Write a plugin file; returns the flags that load it."""

    def write(name: str, source: str) -> list[str]:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return ["--plugin", str(path)]

    return write


def test_hooks_of_two_plugins_in_a_run_and_its_report(suite: FakeSuite, plugin: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    flags = [flag for name in ("first", "last") for flag in plugin(name, WRAP.format(name=name, log=str(log)))]
    done = suite.run(*flags)
    assert done.returncode == 0, done.stderr

    lines = log.read_text().splitlines()
    for length in (5, 6):
        of_cell = [line.rpartition(" ")[0] for line in lines if line.endswith(str(length))]
        # The plugin registered last is the outermost: entered first, left last.
        assert of_cell == ["enter last", "enter first", "leave first", "leave last"]

    for record in suite.records():
        assert record["context"]["clock_of_first"] == record["context"]["clock_of_last"] == 1700

    assert "first_says" in done.stdout
    printed = suite_report(suite, *flags)
    for text in ("first_says", "last_says", "first5", "last6"):
        assert text in printed
    assert "first_says" not in suite_report(suite)


def test_context_that_the_harness_already_gives_is_an_error(suite: FakeSuite, plugin: Write) -> None:
    done = suite.run(*plugin("clash", CLASH))
    assert done.returncode == 2
    assert "clash.py' gives the context 'threads' a second time" in done.stderr
    assert "Traceback" not in done.stderr


def test_context_that_two_plugins_give_is_an_error(suite: FakeSuite, plugin: Write, tmp_path: Path) -> None:
    source = WRAP.format(name="one", log=str(tmp_path / "log"))
    done = suite.run(*plugin("one", source), *plugin("two", source))
    assert done.returncode == 2
    assert "two.py' gives the context 'clock_of_one' a second time" in done.stderr


def suite_report(suite: FakeSuite, *flags: str) -> str:
    import subprocess

    command = suite.command("report", str(suite.folders[-1]), *flags)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
