"""The tutorial and the reference do what they say, and leave nothing out."""

from __future__ import annotations

import importlib
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.check import subjects
from harness.cli.main import main
from harness.contract import Option, hookspecs
from harness.records.record import Status
from harness.records.store import RunFolder
from harness.suite.variant import AXES
from tests.plugins.documents import Command, File, steps

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SAMPLE = ROOT / "tests" / "sample_plugin"
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `pip install` goes to and that every process of the test finds packages in."""
    target = tmp_path / "installed"
    monkeypatch.setenv("PYTHONPATH", str(target))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.syspath_prepend(target)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adding_a_backend.md", "plugins.md"])
def test_every_block_of_the_document_works(
    name: str, tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(subjects, "MODELS", {"tiny-v32": 1})  # one model is enough here
    done = 0
    for step in steps(DOCS / name):
        done += 1
        if isinstance(step, File):
            path = folder / step.name
            path.parent.mkdir(exist_ok=True)
            path.write_text(step.content)
        else:
            _run(step, installed, capsys)
    assert done > 2


def _run(command: Command, installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command.text)
    if program == "harness":
        code = main([*arguments, *(["--threads", "1"] if arguments[0] == "check" else [])])
        captured = capsys.readouterr()
        output, errors = captured.out, captured.err
    else:
        line = [*PIP, "--target", str(installed), *arguments[1:]] if program == "pip" else [program, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        code, output, errors = done.returncode, done.stdout, done.stderr
        importlib.invalidate_caches()  # this very process looks for what has just been installed
    assert code == 0, f"{command.text}: exit code {code}\n{output}\n{errors}"
    assert not command.missing_from(output), f"{command.text} printed\n{output}"


def test_the_sample_plugin_is_the_one_of_the_tutorial() -> None:
    shown = {step.name: step.content for step in steps(DOCS / "adding_a_backend.md") if isinstance(step, File)}
    for path in sorted(
        path for path in SAMPLE.rglob("*") if path.suffix in (".py", ".toml") and "build" not in path.parts
    ):
        assert shown[str(path.relative_to(SAMPLE))] == path.read_text()


@pytest.mark.slow
def test_an_installed_package_is_listed_and_runs(tmp_path: Path, installed: Path) -> None:
    source = tmp_path / "source"
    _copy(SAMPLE, source)
    subprocess.run([*PIP, "--target", str(installed), str(source)], check=True, capture_output=True, cwd=tmp_path)
    suite = tmp_path / "window.yaml"
    suite.write_text(
        next(s.content for s in steps(DOCS / "adding_a_backend.md") if getattr(s, "name", "") == suite.name)
    )
    harness = [sys.executable, "-P", "-m", "harness.cli.main"]

    listed = subprocess.run([*harness, "list"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "sliding" in listed.stdout

    run = [*harness, "run", str(suite), "--out", str(tmp_path / "results")]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = RunFolder.open(next((tmp_path / "results").iterdir())).records()
    assert [one.status for one in records if one.variant.selector == "sliding"].count(Status.PASSED) == 2


def _copy(source: Path, target: Path) -> None:
    """Only what belongs to the package: pip leaves build folders beside what it installs."""
    for path in source.rglob("*"):
        if path.suffix in (".py", ".toml"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text())


# --- the reference is complete -------------------------------------------------------------------------


@pytest.mark.parametrize("hook", sorted(name for name in dir(hookspecs) if name.startswith("harness_")))
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"### `{hook}({arguments})`" in (DOCS / "plugins.md").read_text()


def test_every_axis_and_every_field_of_an_option_is_documented() -> None:
    text = (DOCS / "plugins.md").read_text()
    for name in [*AXES, *inspect.signature(Option).parameters]:
        assert f"`{name}" in text or f"{name}=" in text or f" {name}," in text or f"({name}," in text, name
