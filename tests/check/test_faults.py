"""Every planted fault is caught by a check that says what is wrong; its unfaulted twin passes them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.check import subjects
from harness.check.checks import CHECKS
from harness.cli.main import main

FAULTS = Path(__file__).parent / "faults"

CASES = {
    "kernels": {
        "sees-the-future": ["operator mqa_attention", "future_is_unseen"],
        "ignores-positions": ["operator rotary", "operator rotary_is_relative", "positions_matter"],
        "turns-the-wrong-way": ["operator rotary", "equals_reference"],
        "rotates-the-wrong-layout": ["operator rotary", "equals_reference"],
        "multiplies-masked-rows": ["operator mqa_attention", "unused_memory_is_never_read"],
        "answers-in-float32": ["operator swiglu"],
        "breaks-ties-upwards": ["operator select_topk"],
        "writes-into-its-input": ["operator add_rms_norm"],
        "drops-an-expert": ["operator grouped_experts", "equals_reference"],
        "is-not-deterministic": ["operator rms_norm", "same_call_is_bitwise_equal"],
        "selects-nothing": ["operator mha_attention"],
        "takes-none-for-the-first-key": ["operator mqa_sparse_attention"],
        "scores-without-relu": ["operator index_scores"],
    },
    "fp8 kernels": {
        "rounds-towards-zero": ["operator quantise"],
        "drops-a-scale": ["operator fp8_gemm", "equals_reference_that_quantises_alike"],
        "turns-the-blocks": ["operator fp8_gemm"],
        "takes-the-gates-scales": ["operator fp8_grouped_experts"],
        "rotary-key-first": ["operator pack_latents"],
        "one-scale-for-all": ["operator unpack_latents"],
        "does-not-rotate": ["operator pack_index_keys"],
        "forgets-the-keys-scales": ["operator fp8_index_scores"],
        "sees-the-future": ["operator fp8_mqa_attention"],
        "takes-none-for-the-first-key": ["operator fp8_mqa_sparse_attention"],
    },
    "cache": {
        "keeps-the-first": ["reads_back_what_was_written", "truncate_then_continue_equals_fresh"],
        "forgets-steps": ["prefill_then_decode_equals_whole"],
        "shares-its-memory": ["states_do_not_mix"],
        "writes-padding": ["reads_back_what_was_written"],
        "reports-half": ["bytes_are_declared", "layer_bytes_are_declared"],
        "starts-undefined": ["unused_memory_is_never_read"],
    },
    "selector": {
        "sees-the-future": ["selection_is_valid", "future_is_unseen"],
        "selects-nothing": ["selection_is_valid"],
        "selects-twice": ["selection_is_valid"],
        "depends-on-the-chunk": ["chunks_equal_whole", "prefill_then_decode_equals_whole"],
        "claims-fewer": ["selection_is_valid"],
    },
    "form": {
        "scales-wrongly": ["equals_reference"],
        "forgets-the-selection": ["equals_reference"],
        "remembers-keys": ["equals_reference", "batch_equals_singles"],
    },
    "engine": {
        "answers-in-bf16": ["logits_are_float32"],
        "takes-the-last-column": ["ragged_equals_singles"],
        "ignores-truncate": ["truncate_then_continue_equals_fresh"],
        "mixes-sequences": ["sequences_do_not_mix", "batch_equals_singles"],
        "chunks-start-anew": ["chunks_equal_whole"],
        "fills-its-own-way": ["synthetic_context_is_the_declared_one"],
        "accepts-too-much": ["full_states_refuse"],
        "answers-nan": ["odd_sizes"],
        "scores-the-wrong-token": ["scores_are_of_the_logits"],
        "samples": ["same_call_is_bitwise_equal"],
        "starts-with-a-token": ["decode_from_nothing"],
        "clears-padding": ["inputs_are_untouched"],
    },
    "decoding": {
        "takes-the-second-best": ["decoding_is_greedy"],
        "ignores-stop": ["decoding_is_greedy"],
        "ignores-lengths": ["decoding_is_greedy"],
    },
}
"""Axis (with a word before it where an axis has several files) -> planted fault -> checks that must name it."""

PLUGINS = {
    "kernels": "kernels",
    "fp8 kernels": "fp8_kernels",
    "cache": "caches",
    "selector": "selectors",
    "form": "forms",
    "engine": "engines",
    "decoding": "decodings",
}
"""Axis -> file under faults/."""


NEEDS_CHANGES = {
    "answers-in-float32",
    "multiplies-masked-rows",
    "sees-the-future",
    "forgets-the-selection",
    "drops-a-scale",
}
"""Faults that show under bf16, fp8, dsa or form mqa alone: single changes of the engine's defaults are checked too."""


def few_subjects(monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
    """One model and few variants: enough for every fault here, and a second instead of a minute."""
    monkeypatch.setattr(subjects, "MODELS", {"tiny-v32": changes})


def check(group: str, name: str) -> list[str]:
    plugin = str(FAULTS / f"{PLUGINS[group]}.py")
    return ["check", "--threads", "1", "--plugin", plugin, "--option", f"{axis_of(group)}={name}"]


def axis_of(group: str) -> str:
    return group.split()[-1]


@pytest.mark.parametrize(
    ("group", "name", "checks"),
    [(group, name, checks) for group, faults in CASES.items() for name, checks in faults.items()],
)
def test_a_planted_fault_is_named(
    group: str, name: str, checks: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_subjects(monkeypatch, changes=int(name in NEEDS_CHANGES))
    assert main(check(group, name)) == 1
    found = set(
        re.findall(
            rf"^FAIL {axis_of(group)}={name} (.*?)(?: on .*)?(?: \(and \d+ more\))?:$", capsys.readouterr().out, re.M
        )
    )
    assert set(checks) <= found


@pytest.mark.parametrize("group", CASES)
def test_the_unfaulted_twin_passes(
    group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_subjects(monkeypatch, changes=int(group != "decoding"))  # one that scores its whole text again takes long
    assert main(check(group, "sound")) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_every_planted_fault_has_a_case() -> None:
    from harness.contract.registry import Registry

    for group, faults in CASES.items():
        path, axis = str(FAULTS / f"{PLUGINS[group]}.py"), axis_of(group)
        registry = Registry([path], entry_points=False)
        planted = {option.name for option in registry.options(axis) if registry.source(axis, option.name) == path}
        assert planted == {"sound", *faults}


def test_every_check_has_caught_something() -> None:
    named = {name for faults in CASES.values() for checks in faults.values() for name in checks}
    assert named == {check.name for check in CHECKS}


def test_the_command_itself_exits_with_1_and_keeps_stdout_for_the_table() -> None:
    command = [sys.executable, "-m", "harness.cli.main", *check("engine", "answers-in-bf16")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("check ")
    assert "FAIL engine=answers-in-bf16 logits_are_float32" in done.stdout
    assert "tiny-v32" in done.stderr
