"""The option `kernels: triton`: where it runs, what its worker is started with, and what its records say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness.contract import MachineFacts, Query
from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.model.presets import PRESETS

REGISTRY = Registry(entry_points=False)
GPU = MachineFacts("Linux", "x86_64", "cpu", 8, 2**34, "cuda", "GPU", 2**37, (9, 0), {"triton": "3.6.0"})
CPU = MachineFacts("Linux", "x86_64", "cpu", 8, 2**34, "cpu", packages={"triton": "3.6.0"})

SUITE = """
question: What may a record of interpreted kernels say?
threads: 1
sampling: {rounds: 1, samples: 1}
tables:
  tiny:
    question: Prefill on the CPU.
    checkpoint: tiny-v32
    baseline: {kernels: eager, form: mqa}
    variants: [{kernels: eager, form: mqa}, {kernels: triton, form: mqa}]
    workloads: [{kind: prefill, length: 6, context: random}]
"""


def reasons(facts: MachineFacts, **choices: str) -> list[str]:
    variant = REGISTRY.variant({"kernels": "triton", **choices})
    return REGISTRY.unsupported(Query(variant, PRESETS["tiny-v32"], facts))


def test_it_runs_on_gpus_and_interpreted_on_cpus() -> None:
    assert reasons(GPU) == []
    assert reasons(CPU) == []


def test_every_reason_against_it() -> None:
    old = msgspec.structs.replace(GPU, compute_capability=(7, 5), packages={})
    assert len(reasons(old, precision="fp64")) == 3
    assert "7.5" in reasons(old)[-1]


def test_a_worker_on_a_cpu_interprets() -> None:
    variant = REGISTRY.variant({"kernels": "triton"})
    assert REGISTRY.environment(variant, CPU) == {"TRITON_INTERPRET": "1"}
    assert REGISTRY.environment(variant, GPU) == {}
    assert REGISTRY.environment(variant.with_options({"kernels": "eager"}), CPU) == {}


def test_options_that_want_different_environments_are_an_error() -> None:
    registry = Registry(entry_points=False)
    other = replace(registry.option("form", "mqa"), environment=lambda facts: {"TRITON_INTERPRET": "0"})
    registry._options["form"]["mqa"] = other
    with pytest.raises(UsageError, match="kernels=triton needs TRITON_INTERPRET=1, another option '0'"):
        registry.environment(registry.variant({"kernels": "triton", "form": "mqa"}), CPU)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_interpreted_cells_are_checked_and_not_timed(tmp_path: Path) -> None:
    suite, results = tmp_path / "suite.yaml", tmp_path / "results"
    suite.write_text(SUITE)
    command = [sys.executable, "-m", "harness.cli.main", "run", str(suite), "--out", str(results)]
    path = os.pathsep.join(place for place in sys.path if place)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    [stored] = results.rglob("records.jsonl")
    records = [json.loads(line) for line in stored.read_text().splitlines()]
    by_kernels = {record["variant"]["kernels"]: record for record in records}
    eager, triton = by_kernels["eager"], by_kernels["triton"]
    assert triton["status"] == "passed"
    assert all(value.endswith(" (interpreted)") for value in triton["resolved"].values())
    assert "withheld" in triton["metrics"]["ttft"]
    assert "samples" in eager["metrics"]["ttft"]
