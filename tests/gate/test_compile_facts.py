"""The gate over facts of compiled kernels: exact, whatever the machine, and never across compilers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from harness.compile.facts import BuildFacts
from harness.compile.target import TARGETS
from harness.gate.verdict import Finding, Verdict
from harness.measure.compile import metrics_of
from harness.records.record import Record
from tests.gate.sides import MHA, finding, judged, record, rules, run

GATE = rules(
    {"metrics": "spills", "limit": "absolute", "at_most": 0.0},
    {"metrics": "shared_memory_share", "limit": "absolute", "at_most": 1.0},
    {"metrics": "matrix_instructions", "limit": "absolute", "at_least": 1.0},
    {"metrics": ["registers", "native_matrix_instructions"], "limit": "exact", "across": "machine"},
)
GOOD = BuildFacts(
    "a", "mqa_attention", "sm_90", registers=160, shared_memory=1024, shared_limit=232448, matrix_product=True,
    instructions={"wgmma": 8},
)  # fmt: skip


def compiled(*builds: BuildFacts, compiler: str = "triton 3.9.0", **context: Any) -> Record:
    told = {"compiler": compiler, "ptx_versions": ["9.4"], "builds": [one.build for one in builds], **context}
    metrics = metrics_of(builds, TARGETS["sm_90"])
    return record("compile", MHA, metrics, context=told, target="sm_90", operator="mqa_attention")


def judge(tmp_path: Path, new: Record, base: Record | None = None) -> dict[str, Finding]:
    report = judged(run(tmp_path, [base or compiled(GOOD)]), run(tmp_path, [new]), GATE)
    names = {one.metric for one in report.findings}
    return {name: finding(report, name) for name in names}


def changed(**changes: Any) -> BuildFacts:
    return msgspec.structs.replace(GOOD, **changes)


def test_the_same_facts_pass(tmp_path: Path) -> None:
    assert {one.verdict for one in judge(tmp_path, compiled(GOOD)).values()} == {Verdict.PASS}


def test_every_planted_change_for_the_worse_is_found(tmp_path: Path) -> None:
    planted = {
        "spills": changed(spills=8),
        "shared_memory_share": changed(shared_memory=232449),
        "matrix_instructions": changed(instructions={}),
        "native_matrix_instructions": changed(instructions={"mma": 8}),
        "registers": changed(registers=168),
    }
    for metric, build in planted.items():
        assert judge(tmp_path, compiled(build))[metric].verdict == Verdict.REGRESSION, metric


def test_fewer_registers_are_an_improvement(tmp_path: Path) -> None:
    assert judge(tmp_path, compiled(changed(registers=128)))["registers"].verdict == Verdict.IMPROVEMENT


def test_another_machine_is_no_reason_and_another_compiler_is(tmp_path: Path) -> None:
    elsewhere = compiled(GOOD, machine={"cpu_model": "other"})
    assert judge(tmp_path, elsewhere)["registers"].verdict == Verdict.PASS
    newer = judge(tmp_path, compiled(GOOD, compiler="triton 3.10.0"))["registers"]
    assert newer.verdict == Verdict.INCOMPARABLE
    assert "compiler triton 3.9.0 -> triton 3.10.0" in newer.reasons[0]


def test_builds_that_came_or_went_are_not_compared(tmp_path: Path) -> None:
    found = judge(tmp_path, compiled(GOOD, changed(build="b")))["registers"]
    assert found.verdict == Verdict.INCOMPARABLE
    assert "builds" in found.reasons[0]
