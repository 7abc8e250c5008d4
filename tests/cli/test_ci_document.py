"""docs/ci.md: its commands exist, its script exits as it says, its console prints what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.cli.main import main, make_parser
from tests.plugins.documents import Command, File, steps

DOCUMENT = Path(__file__).parents[2] / "docs" / "ci.md"
FILES = {step.name: step.content for step in steps(DOCUMENT) if isinstance(step, File)}
SUITES = DOCUMENT.parents[1]


def harness_lines(text: str) -> list[str]:
    """Every `harness ...` command of a shell text, continuation lines joined."""
    return re.findall(r"^\s*(harness .*)$", text.replace("\\\n", " "), re.MULTILINE)


def test_the_workflow_is_one_and_its_commands_exist() -> None:
    workflow = yaml.safe_load(FILES[".github/workflows/gate.yml"])
    steps_of_job = workflow["jobs"]["gate"]["steps"]
    scripts = [step["run"] for step in steps_of_job if "run" in step]
    (command,) = (line for script in scripts for line in harness_lines(script))
    args = make_parser().parse_args(shlex.split(command)[1:])
    assert args.against == "origin/$BASE"
    assert (SUITES / args.suite).exists()
    written = {str(path) for path in (args.markdown, args.junit, args.json)}
    assert written == {"gate.md", "gate.xml", "gate.json"}
    assert all(step.get("if", "").startswith("always()") for step in steps_of_job[-3:])
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 2), (3, 0), (130, 130)])
def test_the_script_fails_for_what_it_says(tmp_path: Path, code: int, expected: int) -> None:
    script, stub = tmp_path / "gate.sh", tmp_path / "harness"
    script.write_text(FILES["gate.sh"])
    stub.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/called"\nexit {code}\n')
    stub.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", script, "suite.yaml", "some-ref"], env=env, capture_output=True, check=False)
    assert done.returncode == expected
    make_parser().parse_args(shlex.split((tmp_path / "called").read_text()))


def test_commands_that_take_their_time_exist() -> None:
    for line in harness_lines(FILES["know.sh"]):
        make_parser().parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.slow
def test_the_console_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for step in steps(DOCUMENT):
        if isinstance(step, File):
            path = tmp_path / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.content)
        else:
            _run(step, tmp_path, capsys)


def _run(command: Command, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        str(next(folder.glob(word)).relative_to(folder)) if "*" in word else word for word in shlex.split(command.text)
    ]
    code = main(words[1:])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert not command.missing_from(captured.out + captured.err), captured.out + captured.err
