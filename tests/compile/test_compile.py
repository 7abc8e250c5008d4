"""Toy kernels compiled for real: facts, failures of single builds, the cache, the measurement and the verb."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.cli.main import main
from harness.compile.builds import KernelSet
from harness.compile.compiler import compile_build, key
from harness.compile.facts import BuildFacts
from harness.compile.pool import environment
from harness.compile.target import TARGETS
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest
from harness.contract.slots import OPERATORS
from harness.errors import UsageError
from harness.measure.compile import CompileMeasurement, metrics_of
from harness.measure.measurement import Bench, Outcome, Shared
from harness.measure.no_model import without_model
from harness.model.presets import PRESETS
from harness.records.record import Status
from harness.suite.cell import CellId
from harness.suite.load import load_suite
from harness.suite.schema import Compile
from tests.compile import toy_kernels
from tests.plugins.documents import Command, steps

PLUGIN = "tests.compile.toy_kernels"
HOPPER = TARGETS["sm_90"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def outcome(operator: str, target: str = "sm_90", fresh: bool = False) -> Outcome:
    registry = Registry([PLUGIN], entry_points=False)
    variant = registry.variant({"engine": "native", "kernels": "toy"})
    parts = registry.load(variant)
    runner = without_model(EngineRequest("tiny-v32", PRESETS["tiny-v32"], variant, parts, "cpu", 0))
    workload = Compile(target=target, operator=operator)
    cell = CellId("t", {"kind": "compile", **msgspec.structs.asdict(workload)}, variant)
    shared = Shared()
    bench = Bench(runner, parts, "tiny-v32", 0, "cpu", Path("."), plugins=[PLUGIN], fresh=fresh, shared=shared)
    with shared.ends:
        return CompileMeasurement(workload, bench, cell).finish()


def test_a_product_has_the_targets_own_instructions() -> None:
    result = outcome("swiglu")
    assert result.status == Status.PASSED, result.reasons
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert values["native_matrix_instructions"] == values["matrix_instructions"] == 1
    assert values["spills"] == 0
    assert 16 <= values["registers"] <= 255  # type: ignore[operator]
    assert 0 < values["shared_memory_share"] < 1  # type: ignore[operator]
    assert result.context["builds"] == ["product/bf16"]
    assert result.context["compiler"].startswith("triton ")
    assert result.documents is not None
    assert result.documents[0]["instructions"].keys() == {"wgmma"}


def test_what_is_known_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = outcome("rms_norm")
    monkeypatch.setattr("harness.measure.compile.compiling", lambda count: pytest.fail("compiled again"))
    assert outcome("rms_norm") == first
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        outcome("rms_norm", fresh=True)


def test_builds_that_do_not_compile_fail_their_cell_and_say_why() -> None:
    result = outcome("rotary")
    assert result.status == Status.FAILED
    assert [reason.split(":")[0] for reason in result.reasons] == ["broken", "misfit"]
    assert "missing ['target', 'count']" in result.reasons[1]
    assert not result.metrics


def test_a_compiler_that_dies_costs_its_build_alone() -> None:
    result = outcome("index_scores")
    assert result.status == Status.FAILED
    assert "the compiler died: exit code 7" in result.reasons[0]


def test_nothing_to_compile_is_unsupported() -> None:
    for operator, target in (("select_topk", "sm_90"), ("swiglu", "sm_80")):
        result = outcome(operator, target)
        assert result.status == Status.UNSUPPORTED
        assert f"no build of {operator} to compile for {target}" in result.reasons[0]


def test_the_key_holds_everything_that_decides_machine_code() -> None:
    build = toy_kernels.COPY
    changed = [
        dataclasses.replace(build, signature={**build.signature, "source": "*bf16"}),
        dataclasses.replace(build, constants={"BLOCK": 512}),
        dataclasses.replace(build, num_warps=8),
        dataclasses.replace(build, num_stages=4),
        dataclasses.replace(build, divisible_by_16=()),
        dataclasses.replace(build, kernel=toy_kernels.product_kernel),
    ]
    keys = [key(one, HOPPER) for one in [build, *changed]] + [key(build, TARGETS["sm_80"])]
    assert len(set(keys)) == len(keys)
    assert key(dataclasses.replace(build), HOPPER) == keys[0]


def test_the_key_holds_the_functions_that_a_kernel_calls() -> None:
    before = key(toy_kernels.COPY, HOPPER)
    source = toy_kernels.twice.src
    try:
        toy_kernels.twice._unsafe_update_src(source.replace("x + x", "x * 3"))
        toy_kernels.copy_kernel.hash = None
        assert key(toy_kernels.COPY, HOPPER) != before
    finally:
        toy_kernels.twice._unsafe_update_src(source)
        toy_kernels.copy_kernel.hash = None


def test_compiling_is_never_interpreted_and_does_not_warn() -> None:
    given = environment({"TRITON_INTERPRET": "1", "TRITON_DEFAULT_FP_FUSION": "0", "KEPT": "yes"}, Path("/somewhere"))
    assert "TRITON_INTERPRET" not in given
    assert given["TRITON_DEFAULT_FP_FUSION"] == "1"
    assert given["KEPT"] == "yes"


def test_builds_have_names_of_their_own_and_operators_that_there_are() -> None:
    def kernel_set(*builds: Any) -> KernelSet:
        return KernelSet(dataclasses.replace(toy_kernels.operators(), builds=lambda _: list(builds)))

    with pytest.raises(UsageError, match="two builds"):
        kernel_set(toy_kernels.COPY, toy_kernels.COPY).builds(HOPPER)
    with pytest.raises(UsageError, match="no operator of the set: fused"):
        kernel_set(dataclasses.replace(toy_kernels.COPY, operator="fused")).builds(HOPPER)


def test_a_product_without_matrix_instructions_shows() -> None:
    plain = BuildFacts("a", "op", "sm_90", shared_limit=1, matrix_product=True, instructions={"mma": 4})
    none = dataclasses_replace(plain, instructions={})
    values = {name: metric.value for name, metric in metrics_of([plain, none], HOPPER).items()}
    assert values["matrix_instructions"] == 0.5
    assert values["native_matrix_instructions"] == 0
    assert "matrix_instructions" not in metrics_of([dataclasses_replace(plain, matrix_product=False)], HOPPER)


def dataclasses_replace(facts: BuildFacts, **changes: Any) -> BuildFacts:
    return msgspec.structs.replace(facts, **changes)


def test_an_error_of_the_compiler_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    failure = compile_build(toy_kernels.BROKEN, HOPPER).failure
    assert failure is not None
    assert len(failure) <= 300


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--target", "sm_91"], "sm_90"),
        (["--operator", "mqa"], "mqa_attention"),
        (["--kernels", "trition"], "triton"),
        (["suites/quickstart.yaml"], "measures and does not compile"),
        (["suites/quickstart.yaml", "--target", "sm_90"], "the suite says what is compiled"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", *arguments, "--out", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_verb_shows_every_build_and_fails_when_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", "--plugin", PLUGIN, "--kernels", "toy", "--target", "sm_90", "--out", str(tmp_path)]
    assert main([*arguments, "--operator", "swiglu", "--operator", "rotary"]) == 1
    shown = capsys.readouterr().out
    assert "product/bf16" in shown
    assert "wgmma" in shown
    assert "FAILS" in shown
    assert "failed: toy:compile[operator=rotary,target=sm_90]" in shown
    assert max(map(len, shown.splitlines()[:8])) <= 100


def test_the_suite_asks_for_every_operator_on_every_target() -> None:
    """An operator that the suite does not name would never be compiled in CI."""
    suite = load_suite(Path(__file__).parents[2] / "suites" / "kernels_compile.yaml").suite
    asked = {
        table.workloads[0].target: table.workloads[0].operator  # type: ignore[union-attr]
        for table in suite.tables.values()
    }
    assert asked == {name: list(OPERATORS) for name in TARGETS}


@pytest.mark.slow
def test_the_commands_of_the_document_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = Path(__file__).parents[2] / "docs" / "compile.md"
    commands = [step for step in steps(document) if isinstance(step, Command)]
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main(shlex.split(command.text)[1:]) == 0
        assert not command.missing_from(capsys.readouterr().out)
    assert commands
