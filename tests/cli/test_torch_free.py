"""What only reads and plans imports no torch, third-party plugins included, so that it answers at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_suite import FakeSuite, fake_suite

HEAVY = ("torch", "transformers", "lm_eval", "numpy", "datasets", "triton")

PROBE = """
import sys
from harness.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print("HEAVY", [name for name in %r if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""

PLUGIN = """
from harness.contract import Option, hookimpl

@hookimpl
def harness_options():
    return [Option("kernels", "third-party", "not.there:ever", "comes through an entry point")]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like site-packages with a third-party plugin in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "third_party_plugin.py").write_text(PLUGIN)
    info = folder / "third_party_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[harness.plugins]\nthird = third_party_plugin\n")
    return folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FakeSuite:
    """A suite with one stored run."""
    suite = fake_suite(tmp_path_factory.mktemp("run"), ["sound", "not-here"], [8])
    assert suite.run().returncode == 0
    return suite


def probe(installed: Path, *arguments: str) -> tuple[str, str]:
    """stdout of `harness ARGUMENTS`, and the heavy modules that it had imported by its end."""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE % (HEAVY,), *arguments], capture_output=True, text=True, env=env, check=True
    )
    return done.stdout, done.stderr.split("HEAVY ")[1].strip()


@pytest.mark.parametrize("command", ["--help", "run --help", "--version", "list", "doctor"])
def test_commands_without_a_suite(installed: Path, command: str) -> None:
    out, heavy = probe(installed, *command.split())
    assert out
    assert heavy == "[]"


def test_list_shows_third_party_options_and_where_they_come_from(installed: Path) -> None:
    out, _ = probe(installed, "list", "--axis", "kernels", "--format", "csv")
    assert "kernels,third-party,comes through an entry point,third" in out.splitlines()


@pytest.mark.parametrize("style", ["terminal", "markdown", "csv", "json"])
def test_plan_and_report(installed: Path, stored: FakeSuite, style: str) -> None:
    out, heavy = probe(installed, "plan", str(stored.path), "--out", str(stored.out), "--format", style)
    assert "this is not here; and neither is that" in out
    assert heavy == "[]"
    out, heavy = probe(installed, "report", str(stored.folders[0]), "--format", style)
    assert "this is not here" in out
    assert heavy == "[]"
