"""The kit over every built-in option: what every option must do, whoever wrote it."""

from __future__ import annotations

import pytest

from harness.check.checks import CHECKS
from harness.check.kit import Result, Verdict, run_checks
from harness.check.subject import Workbench
from harness.check.subjects import OptionName, all_options
from harness.contract import MachineFacts
from harness.contract.registry import Registry

REGISTRY = Registry(entry_points=False)
FACTS = MachineFacts("Linux", "x86_64", "cpu", 1, 2**33, "cpu")

OF_HF = {"unused_memory_is_never_read", "selection_is_valid", "equals_reference_that_quantises_alike"}
NOT_APPLICABLE = {"engine=hf": OF_HF, "kernels=sdpa": OF_HF | {"operator"}, "kernels=hf-eager": OF_HF | {"operator"}}
"""What transformers cannot be asked: its cache grows, it selects keys by itself, quantises nothing, and it fills no
operator table."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return run_checks(Workbench(REGISTRY, FACTS), all_options(REGISTRY), lambda *_: None)


@pytest.mark.parametrize("option", all_options(REGISTRY), ids=str)
def test_a_built_in_option_conforms(option: OptionName, results: list[Result]) -> None:
    mine = [result for result in results if result.option == option]
    assert not [result for result in mine if result.verdict == Verdict.FAILED]
    passed = {result.check for result in mine if result.verdict == Verdict.PASSED}
    due = {check.name for check in CHECKS if check.axis in (None, option.axis)}
    excused = NOT_APPLICABLE.get(str(option), set())
    assert {name for name in due - passed if name.split(" ")[0] not in excused} == set()
