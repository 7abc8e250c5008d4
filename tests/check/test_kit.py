"""The kit's own behaviour: which subjects stand for an option, how results are counted, printed and refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.check import cache_checks, part_checks, runner_checks, state_checks
from harness.check.checks import CHECKS
from harness.check.kit import Result, Verdict, run_checks
from harness.check.subject import Workbench
from harness.check.subjects import OptionName, all_options, subjects_of
from harness.check.table import failed, render
from harness.check.tolerances import Tolerance
from harness.check.verdict import FaultError, require_close, require_equal
from harness.cli.main import main
from harness.contract import MachineFacts
from harness.contract.registry import BUILT_IN, Registry

FACTS = MachineFacts("Linux", "x86_64", "cpu", 1, 2**33, "cpu")
EXACT = Tolerance(1e-6, 1e-5, "test")


def bench(*plugins: str) -> Workbench:
    return Workbench(Registry(plugins, entry_points=False), FACTS)


# --- subjects ------------------------------------------------------------------------------------------


def test_every_built_in_option_has_subjects() -> None:
    shared = bench()
    for option in all_options(shared.registry):
        subjects = subjects_of(option, shared)
        assert subjects, option
        assert all(getattr(subject.variant, option.axis) == option.name for subject in subjects)
        assert len({(subject.model, subject.variant) for subject in subjects}) == len(subjects)


def test_plugins_stand_for_themselves_alone(tmp_path: Path) -> None:
    source = 'Option("selector", "other", lambda: None, "")'
    (tmp_path / "other.py").write_text(
        f"from harness.contract import Option, hookimpl\n@hookimpl\ndef harness_options():\n    return [{source}]\n"
    )
    shared = bench(str(tmp_path / "other.py"))
    for option in all_options(shared.registry):
        foreign = {subject.variant.selector for subject in subjects_of(option, shared)} - {"dense", "dsa"}
        assert foreign == ({"other"} if option == OptionName("selector", "other") else set())


@pytest.mark.parametrize("module", [cache_checks, part_checks, runner_checks, state_checks])
def test_every_check_that_is_written_is_on_the_list(module: Any) -> None:
    written = {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert written
    assert written <= {check.name for check in CHECKS}


def test_checks_have_names_of_their_own_and_say_what_must_hold() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.question.endswith(".") for check in CHECKS)


# --- results -------------------------------------------------------------------------------------------


def result(check: str, verdict: Verdict, message: str = "", subject: str = "tiny-v32 a") -> Result:
    return Result(OptionName("form", "mha"), check, verdict, subject, message)


def test_one_failure_fails_a_check_and_is_printed_with_its_subject() -> None:
    name, other = CHECKS[0].name, CHECKS[1].name
    results = [
        result(name, Verdict.PASSED),
        result(name, Verdict.FAILED, "off by one", "tiny-v32 b"),
        result(name, Verdict.FAILED, "off by two", "tiny-v32 c"),
        result(other, Verdict.NOT_APPLICABLE, "has none"),
        result(other, Verdict.PASSED),
    ]
    text = render(results, [OptionName("form", "mha")])
    assert [line.split() for line in text.splitlines()[3:5]] == [[name, "FAIL"], [other, "pass"]]
    assert f"FAIL form=mha {name} on tiny-v32 b (and 1 more):\n     off by one" in text
    assert "has none" not in text
    assert failed(results)


def test_a_check_that_nobody_could_answer_gives_its_reason_and_fails_nothing() -> None:
    results = [result(CHECKS[0].name, Verdict.NOT_APPLICABLE, "has none")]
    text = render(results, [OptionName("form", "mha")])
    assert "n/a  form=mha: has none" in text
    assert not failed(results)


def test_an_option_that_cannot_run_here_gives_every_reason(tmp_path: Path) -> None:
    source = 'Option("kernels", "gpu", lambda: None, "", unsupported=lambda query: ["needs a GPU", "and a driver"])'
    (tmp_path / "gpu.py").write_text(
        f"from harness.contract import Option, hookimpl\n@hookimpl\ndef harness_options():\n    return [{source}]\n"
    )
    results = run_checks(bench(str(tmp_path / "gpu.py")), [OptionName("kernels", "gpu")], lambda *_: None)
    assert {found.verdict for found in results} == {Verdict.NOT_APPLICABLE}
    assert {found.message for found in results} == {"needs a GPU; and a driver"}


def test_an_engine_without_defaults_gives_that_as_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "from harness.contract import Option, hookimpl\n@hookimpl\ndef harness_options():\n"
        '    return [Option("engine", "bare", lambda: None, "")]\n'
    )
    results = run_checks(bench(str(tmp_path / "bare.py")), [OptionName("engine", "bare")], lambda *_: None)
    assert {found.verdict for found in results} == {Verdict.NOT_APPLICABLE}
    assert "has no default for some axis" in results[0].message


def test_an_exception_of_a_plugin_fails_its_checks_and_names_the_line(tmp_path: Path) -> None:
    source = 'Option("selector", "broken", lambda: 1 / 0, "")'
    (tmp_path / "broken.py").write_text(
        f"from harness.contract import Option, hookimpl\n@hookimpl\ndef harness_options():\n    return [{source}]\n"
    )
    results = run_checks(bench(str(tmp_path / "broken.py")), [OptionName("selector", "broken")], lambda *_: None)
    assert {found.verdict for found in results} == {Verdict.FAILED}
    assert any(found.message == "ZeroDivisionError: division by zero (broken.py:4)" for found in results)


# --- the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("kernels", "--option wants AXIS=NAME, such as kernels=eager; given: 'kernels'"),
        ("kernel=eager", "unknown axis 'kernel'; did you mean 'kernels'?"),
        ("kernels=eagre", "unknown kernels 'eagre'; did you mean 'eager'?"),
    ],
)
def test_an_unknown_option_is_a_usage_error(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--option", option]) == 2
    assert text in capsys.readouterr().err


# --- comparing numbers ---------------------------------------------------------------------------------


def test_rows_are_compared_by_relative_l2() -> None:
    wanted = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    require_close(wanted * (1 + 9e-7), wanted, EXACT, "small")
    with pytest.raises(FaultError, match=r"all: relative L2 error 2\.0e-06 \(median row\)"):
        require_close(wanted * (1 + 2e-6), wanted, EXACT, "all")
    one_row = wanted.clone()
    one_row[3] *= 1 + 2e-5
    with pytest.raises(FaultError, match=r"2\.0e-05 \(worst row\); allowed 1e-06 and 1e-05 \(test\)"):
        require_close(one_row, wanted, EXACT, "one")


@pytest.mark.parametrize(("changed", "text"), [(float("nan"), "1 values are NaN"), (float("inf"), "1 values are NaN")])
def test_nan_is_never_close(changed: float, text: str) -> None:
    wanted = torch.ones(2, 3)
    given = wanted.clone()
    given[0, 0] = changed
    with pytest.raises(FaultError, match=text):
        require_close(given, wanted, EXACT, "x")


@pytest.mark.parametrize("given", [torch.ones(2, 2), torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 3)])
def test_equal_means_shape_dtype_and_bits(given: Any) -> None:
    with pytest.raises(FaultError):
        require_equal(given, torch.ones(2, 3), "x")


def test_built_ins_are_those_of_the_registry() -> None:
    registry = Registry(entry_points=False)
    apart = {"harness_plugins.torch_compile", "harness_plugins.scaled_mm", "harness_plugins.triton"}
    assert {registry.source(option.axis, option.name) for option in all_options(registry)} == set(BUILT_IN) - apart
