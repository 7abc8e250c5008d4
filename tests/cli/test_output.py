"""What is printed, in every format, and to readers that leave early."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from harness.cli.main import main
from harness.cli.output import format_rows
from harness.suite.variant import AXES

HARNESS = [sys.executable, "-P", "-m", "harness.cli.main"]


def test_rows_in_every_format() -> None:
    headers, rows = ("name", "what"), [("a|b", "1e5"), ("c", 'says "x, y"')]
    assert json.loads(format_rows(headers, rows, "json")) == [dict(zip(headers, row, strict=True)) for row in rows]
    assert list(csv.reader(io.StringIO(format_rows(headers, rows, "csv")))) == [list(headers), *map(list, rows)]
    assert format_rows(headers, rows, "markdown").splitlines()[1].startswith("|--")
    assert "1e5" in format_rows(headers, rows, "terminal")  # text stays text


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" list | true', "bash", *HARNESS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_version_and_help_name_what_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in (
        (["--version"], version("deepseek-harness")),
        (["--help"], "examples:"),
        (["run", "-h"], "--only"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert part in capsys.readouterr().out


def test_a_checkout_that_is_not_installed_has_no_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert "not installed" in capsys.readouterr().out


def test_list_has_every_axis(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(dict.fromkeys(row["axis"] for row in rows)) == list(AXES)
    assert {"axis": "selector", "option": "dsa"}.items() <= next(row for row in rows if row["option"] == "dsa").items()


def test_doctor_says_why_an_option_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu", "--checkpoint", "tiny-v3", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    options = {(row["axis"], row["option"]): row for row in answer["options"]}
    assert options["selector", "dsa"]["here"] == "no"
    assert "needs a checkpoint with an indexer" in options["selector", "dsa"]["reasons"]
    assert options["form", "mqa"]["here"] == "yes"
    facts = {row["fact"]: row["value"] for row in answer["machine"]}
    assert facts["torch"] == version("torch")
    assert facts["vllm"] == "not installed"
