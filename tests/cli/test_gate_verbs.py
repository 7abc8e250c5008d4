"""`compare`, `gate` and `accept`: on the runs that this project has really stored, and on planted ones."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from harness.cli.main import main
from tests.gate.sides import MHA, MQA, record, rules, run

RUNS = sorted((Path(__file__).parents[2] / "results" / "cpu").glob("*/run.json"))
STORED = [header for header in RUNS if '"tpot"' in (header.parent / "records.jsonl").read_text()]
"""Stored runs with times in them: only there something has to stay open."""
VERDICTS = {"ttft": "inconclusive", "tpot": "inconclusive", "cache_bytes": "pass", "bits_per_byte": "pass"}
"""What a run compared with itself gets, by metric."""
LIMITS: dict[str, dict[str, Any]] = {
    "ttft": {"limit": "relative"},
    "tpot": {"limit": "relative"},
    "cache_bytes": {"limit": "exact"},
    "bits_per_byte": {"limit": "difference", "catch": 0.02},
}
TABLE = {
    "question": "q", "checkpoint": "tiny-v3", "variants": [{"form": "mha"}], "baseline": {"form": "mha"},
    "workloads": [{"kind": "prefill", "length": 4}],
}  # fmt: skip
PLANTED = {"rules": [{"metrics": "ttft", "limit": "relative"}, {"metrics": "cache_bytes", "limit": "exact"}]}
STEADY = [100.0, 100.1, 99.9]


def suite(folder: Path, name: str, gate: dict[str, Any]) -> Path:
    """A suite file whose `gate:` section is all that matters."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"question": "q", "tables": {"t": TABLE}, "gate": gate}))
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def planted(folder: Path, slower: float = 1.0, size: float = 64.0, gated: bool = True) -> Path:
    """A run of two cells."""
    records = [
        record("prefill", variant, {"ttft": [slower * one for one in STEADY], "cache_bytes": [size]}, length=8)
        for variant in (MHA, MQA)
    ]
    return run(folder, records, gate=rules(*PLANTED["rules"]) if gated else None).path


# --- stored runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", STORED, ids=lambda header: header.parent.name)
def test_a_real_run_keeps_its_own_rules_where_no_clock_is_asked(
    header: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb on a run of this repository: what is exact or paired passes, what was timed apart stays open."""
    stored = header.parent
    lines = (stored / "records.jsonl").read_text().splitlines()
    there = {metric for line in lines for metric in json.loads(line).get("metrics", {})} & VERDICTS.keys()
    own_rules = [{"metrics": metric, **LIMITS[metric]} for metric in sorted(there)]
    gate = suite(tmp_path, json.loads(header.read_text())["name"], {"rules": own_rules})
    code, out, _ = call(capsys, "compare", stored, stored, "--suite", gate, "--json", tmp_path / "out.json")
    report = json.loads((tmp_path / "out.json").read_text())
    verdicts = {(one["metric"], one["verdict"]) for one in report["report"]["findings"]}
    assert (code, report["outcome"]) == (3, "inconclusive")
    assert verdicts == {(metric, VERDICTS[metric]) for metric in there}
    assert "10% of drift" in out

    baselines = tmp_path / "baselines"
    code, out, _ = call(capsys, "accept", stored, "--reason", "first", "--suite", gate, "--baselines", baselines)
    assert code == 0
    assert str(next(baselines.glob("*/*"))) in out
    code, out, _ = call(
        capsys,
        "gate",
        gate,
        "--run",
        stored,
        "--baselines",
        baselines,
        "--inconclusive",
        "pass",
        "--format",
        "markdown",
    )
    assert code == 0
    assert out.startswith("### Gate: inconclusive")
    assert call(capsys, "report", next(baselines.glob("*/*")))[0] == 0


def test_all_outputs_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("junit", "markdown", "json")}
    flags = [part for name, path in files.items() for part in (f"--{name}", path)]
    code, out, _ = call(
        capsys, "compare", planted(tmp_path), planted(tmp_path, slower=2.0), *flags, "--github", "--all"
    )
    assert code == 1
    assert out.startswith("REGRESSION (exit 1): planted: 2 regression, 2 pass")
    assert len([line for line in out.splitlines() if line.startswith("::error title=regression%3A ttft::")]) == 2
    assert len(list(ET.parse(files["junit"]).getroot().iter("failure"))) == 3
    assert json.loads(files["json"].read_text())["exit_code"] == 1
    assert files["markdown"].read_text().startswith("### Gate: regression")


@pytest.mark.parametrize(
    ("policy", "code"), [([], 3), (["--inconclusive", "pass"], 0), (["--inconclusive", "fail"], 1)]
)
def test_the_policy_decides_what_three_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: list[str], code: int
) -> None:
    assert call(capsys, "compare", planted(tmp_path), planted(tmp_path), *policy)[0] == code


def test_gate_by_another_run_takes_the_rules_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = suite(tmp_path, "planted", {"rules": [{"metrics": "cache_bytes", "limit": "exact"}]})
    base, new = planted(tmp_path), planted(tmp_path, slower=9.0)
    assert call(capsys, "gate", gate, "--run", new, "--base", base)[0] == 0
    assert call(capsys, "compare", base, new)[0] == 1


def test_waivers_beside_the_suite_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = suite(tmp_path, "planted", {"rules": [{"metrics": "cache_bytes", "limit": "exact"}]})
    base, new = planted(tmp_path), planted(tmp_path, size=65.0)
    assert call(capsys, "gate", gate, "--run", new, "--base", base)[0] == 1
    cells = [json.loads(line)["cell"] for line in (new / "records.jsonl").read_text().splitlines()]
    waivers = [
        {"suite": "planted", "cell": cell, "metric": "cache_bytes", "ceiling": 1, "reason": "r", "owner": "ann",
         "expires": str(date.today() + timedelta(90))}
        for cell in cells
    ]  # fmt: skip
    (tmp_path / "waivers.yaml").write_text(yaml.safe_dump({"waivers": waivers}))
    code, out, _ = call(capsys, "gate", gate, "--run", new, "--base", base)
    assert code == 0
    assert "regression (waived)" in out


def test_creep_is_told_when_it_is_accepted_and_when_it_is_gated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = suite(tmp_path, "planted", PLANTED)
    for factor in (1.0, 1.02, 1.04, 1.06):
        newest = planted(tmp_path, slower=factor)
        code, out, _ = call(capsys, "accept", newest, "--reason", "why not", "--by", "ann", "--baselines", tmp_path)
        assert code == 0
    assert "creep: prefill length=8 mha ttft has lost 6.0% in 3 accepted steps" in out
    _, out, _ = call(capsys, "gate", gate, "--run", newest, "--baselines", tmp_path)
    assert "note: creep: prefill length=8 mha ttft has lost 6.0%" in out


def test_accepting_times_of_an_overloaded_machine_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = record("prefill", MHA, {"ttft": STEADY, "cache_bytes": [64]}, length=8, context={"load_after": [9.0]})
    stored = run(tmp_path, [loaded], gate=rules(*PLANTED["rules"])).path
    code, _, error = call(capsys, "accept", stored, "--reason", "r", "--by", "ann", "--baselines", tmp_path)
    assert code == 0
    assert "the times of 1 cells are of an overloaded machine" in error


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["compare", "{new}", "{nowhere}"], "holds no run"),
        (["compare", "{bare}", "{bare}"], "no `gate:` section"),
        (["compare", "{new}", "{new}", "--json", "{nowhere}/x.json"], "--json"),
        (["compare", "{new}", "{new}", "--json", "/dev/full"], "cannot be written: No space left"),
        (["compare", "{new}", "{new}", "--waivers", "{nowhere}"], "does not exist"),
        (["gate", "{suite}"], "say what to compare"),
        (["gate", "{suite}", "--run", "{new}", "--against", "HEAD"], "say what to compare"),
        (["gate", "{suite}", "--base", "{new}"], "say what to compare"),
        (["gate", "{other}", "--run", "{new}"], "is a run of the suite 'planted', not of 'other'"),
        (["gate", "{suite}", "--run", "{new}", "--baselines", "{nowhere}"], "no baseline was accepted"),
        (
            ["gate", "{suite}", "--run", "{new}", "--only", "form=mha"],
            "--only: means nothing here: it says how to measure",
        ),
        (["gate", "{suite}", "--run", "{new}", "--set", "threads=2"], "--set: means nothing here"),
        (["gate", "{suite}", "--run", "{new}", "--plugin", "x.py"], "--plugin: means nothing here"),
        (["gate", "{suite}", "--run", "{new}", "--times", "5"], "--times: means nothing here"),
        (
            ["gate", "{suite}", "--run", "{new}", "--base", "{new}", "--baselines", "b"],
            "--baselines: means nothing here",
        ),
        (["gate", "{suite}", "--against", "HEAD", "--baselines", "b"], "--baselines: means nothing here"),
        (["gate", "{suite}", "--self-test", "--junit", "x.xml"], "--junit: means nothing here: a self-test prints"),
        (["plan", "{unmeant}"], "unmeant.yaml:"),
        (["accept", "{new}", "--reason", "  "], "without a reason"),
        (["accept", "{bare}", "--reason", "r"], "no `gate:` section"),
    ],
)
def test_bad_input_is_one_message_and_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    places = {
        "new": planted(tmp_path), "bare": planted(tmp_path, gated=False), "nowhere": tmp_path / "nowhere",
        "suite": suite(tmp_path, "planted", PLANTED), "other": suite(tmp_path, "other", PLANTED),
        "unmeant": suite(tmp_path, "unmeant", {"rules": [{"metrics": "ttft", "limit": "points", "catch": 1}]}),
    }  # fmt: skip
    code, out, error = call(capsys, *(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert error.startswith("harness: ")
    assert text in error
    assert len(error.splitlines()) == 1


def test_a_full_disk_behind_stdout_is_no_regression(tmp_path: Path) -> None:
    stored = planted(tmp_path)
    command = [sys.executable, "-m", "harness.cli.main", "compare", stored, stored]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "harness: stdout: cannot be printed: No space left on device\n"


def test_stored_comparisons_import_no_torch(tmp_path: Path) -> None:
    stored = planted(tmp_path)
    probe = "import sys; from harness.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe, "compare", stored, stored], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
