"""Everything that one GPU is asked, in one command and in less than nine minutes: `make gpu RESULTS=DIR`.

Runs the tests marked `gpu` and the suites for a GPU with the Python that is there, each within a share of the time;
what a step leaves over, the next ones have as well. A suite that reaches its end of time is interrupted as by Ctrl-C:
what was measured is kept, and what was not is said. Installs nothing, and needs neither lm-eval nor transformers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("msgspec", "numpy", "pluggy", "psutil", "pytest", "safetensors", "scipy", "tabulate", "torch", "tqdm", "yaml")
"""Modules that every step imports."""

TESTS = "tests/gpu"
SHARES = {TESTS: 0.2, "kernels": 0.34, "longctx_gpu": 0.28, "throughput_gpu": 0.18}
"""Of the whole time, by step."""
SECONDS = 520.0
"""Time of all steps together; starting and packing up come on top."""
TIMES = ("latency_cold", "latency", "tpot", "ttft")
"""Metrics of which a short table shows the first that a record has."""
LAST_WORDS = 20.0
"""Seconds that an interrupted step has to store what it has."""


@dataclass(frozen=True)
class Step:
    """One command: the tests, or a suite."""

    name: str
    command: list[str]
    seconds: float


@dataclass(frozen=True)
class Ended:
    """How a step ended, and what it printed."""

    step: Step
    seconds: float
    code: int
    in_time: bool
    output: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps; returns 1 when a test or a cell failed, 2 when something that is needed is not there."""
    args = _parser().parse_args(argv)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"make gpu needs {', '.join(missing)}, which {sys.executable} has not; docs/gpu.md says how to bring "
              "packages along", file=sys.stderr)  # fmt: skip
        return 2
    args.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="harness-gpu-") as folder:
        ended = list(_run(_steps(args, Path(folder)), args.results))
        _pack(Path(folder), args.results / "runs.tar.gz")
    summary = "\n\n".join(_summaries(ended, args.results))
    (args.results / "summary.txt").write_text(summary + "\n")
    print(summary)
    return int(any(one.code not in (0, 130) for one in ended))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("results", type=Path, help="folder that gets at most eight files")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all steps (default: {SECONDS:g})")
    parser.add_argument(
        "--suite", type=Path, action="append", default=[], dest="suites", help="these suites instead (repeatable)"
    )
    return parser


def _steps(args: argparse.Namespace, folder: Path) -> list[Step]:
    suites = args.suites or [ROOT / "suites" / f"{name}.yaml" for name in SHARES if name != TESTS]
    own = len(suites) + 1
    steps = [Step("tests", _pytest(), args.seconds * SHARES[TESTS])]
    for suite in suites:
        command = [
            sys.executable, "-m", "harness", "run", str(suite), "--fresh", "--device", args.device,
            "--out", str(folder), "--json", str(args.results.resolve() / f"{suite.stem}.json"),
        ]  # fmt: skip
        steps.append(Step(suite.stem, command, args.seconds * SHARES.get(suite.stem, 1 / own)))
    return steps


def _pytest() -> list[str]:
    """Several processes where they can be had: most of the time goes into compiling kernels."""
    several = ["-n", "6"] if importlib.util.find_spec("xdist") else []
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "--no-header", "--tb=short"]
    return [sys.executable, "-m", "pytest", *options, *several, TESTS]


def _run(steps: Sequence[Step], results: Path) -> Iterator[Ended]:
    """Step after step; time that one leaves over is the next one's."""
    spare = 0.0
    with (results / "log.txt").open("wb") as log, (results / "tables.txt").open("w") as tables:
        for step in steps:
            allowed = step.seconds + spare
            one = _ended(step, allowed, log)
            spare = max(0.0, allowed - one.seconds)
            tables.write(f"=== {step.name}\n{one.output}\n")
            tables.flush()
            print(f"{step.name}: {one.seconds:.0f} s, exit code {one.code}", file=sys.stderr, flush=True)
            yield one


def _ended(step: Step, seconds: float, log: Any) -> Ended:
    """Run one step; at the end of its time it is interrupted, and soon after that killed with all its children."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "110"}
    begun = time.monotonic()
    process = subprocess.Popen(
        step.command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=environment, text=True, start_new_session=True
    )
    in_time = True
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        in_time = False
        process.send_signal(signal.SIGINT)
        try:
            output, _ = process.communicate(timeout=LAST_WORDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    return Ended(step, time.monotonic() - begun, process.returncode, in_time, output)


def _pack(runs: Path, target: Path) -> None:
    """All run folders, raw samples included, as one file."""
    with tarfile.open(target, "w:gz") as archive:
        for run in sorted(runs.iterdir()):
            archive.add(run, arcname=run.name)


# --- the short tables --------------------------------------------------------------------------------------


def _summaries(ended: Sequence[Ended], results: Path) -> Iterator[str]:
    for one in ended:
        document = results / f"{one.step.name}.json"
        head = f"== {one.step.name}: {one.seconds:.0f} s{'' if one.in_time else ', ended at its end of time'}"
        if one.step.name == "tests":
            yield "\n".join([head, *one.output.strip().splitlines()[-12:]])
        elif document.exists():
            yield "\n".join([head, *_lines(json.loads(document.read_text()))])
        else:
            yield f"{head}\nno result (exit code {one.code}); log.txt has the reason"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """A line for each workload: what every variant came to."""
    rows: dict[tuple[str, str], list[str]] = {}
    records = document["records"]
    for record in records:
        differing = _differing(records, record["table"])
        name = "/".join(record["variant"][axis] for axis in differing) or record["variant"]["kernels"]
        rows.setdefault((record["table"], _workload(record["workload"])), []).append(f"{name} {_outcome(record)}")
    for (table, workload), outcomes in rows.items():
        yield f"{table} {workload}: {' | '.join(outcomes)}"
    failed = [record for record in records if record["status"] not in ("passed", "unsupported", "skipped")]
    for record in failed:
        yield f"{record['status'].upper()} {record['cell']}: {'; '.join(record['reasons'])[:160]}"


def _differing(records: Sequence[dict[str, Any]], table: str) -> list[str]:
    variants = [record["variant"] for record in records if record["table"] == table]
    return [axis for axis in variants[0] if len({variant[axis] for variant in variants}) > 1]


def _workload(workload: dict[str, Any]) -> str:
    """Such as `mqa_attention T1 S131072 B32`."""
    letters = {"tokens": "T", "length": "S", "batch": "B"}
    name = workload.get("operator", workload["kind"])
    given = [f"{letter}{workload[key]}" for key, letter in letters.items() if workload.get(key)]
    return " ".join([name, *([workload["weight"]] if workload.get("weight") else []), *given])


def _outcome(record: dict[str, Any]) -> str:
    """The time, and for an operator its share of the nearer ceiling and its error as a multiple of its own."""
    if record["status"] != "passed":
        return str(record["status"])
    metrics = {name: metric.get("value") for name, metric in record["metrics"].items()}
    milliseconds = next((metrics[name] for name in TIMES if metrics.get(name)), None)
    parts = ["checked" if milliseconds is None else f"{milliseconds:.3g} ms"]
    if metrics.get("ceiling_share"):
        parts.append(f"{metrics['ceiling_share']:.0%}")
    if metrics.get("error_ratio"):
        parts.append(f"err x{metrics['error_ratio']:.2g}")
    return " ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
