"""The documents are true: their tables are what the stored runs give, its code runs, its commands and links exist."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "results/README.md", *(str(p) for p in Path("docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.mark.parametrize("name", TABLES["DOCUMENTS"])
def test_every_table_is_what_its_command_prints_today(name: str) -> None:
    text = (ROOT / name).read_text()
    assert TABLES["PLACE"].findall(text)
    assert TABLES["filled"](text) == text, "make tables"


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines() if line.strip()])
def test_commands_exist_and_take_the_options_shown(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        return
    assert words[0] == "harness"
    from harness.cli.main import make_parser

    make_parser().parse_args(words[1:])  # exits when a command or an option is unknown
    suites = [word for word in words if word.startswith("suites/")]
    assert all((ROOT / suite).exists() for suite in suites)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text())
    assert [link for link in links if not (folder / link).exists()] == []
