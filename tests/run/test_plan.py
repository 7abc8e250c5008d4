"""The plan knows, without running anything, what runs, what does not and every reason, how long, how much memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli.main import main
from harness.contract.facts import MachineFacts
from harness.contract.registry import Registry
from harness.errors import UsageError
from harness.model.presets import PRESETS
from harness.records.record import Status
from harness.run import estimate
from harness.run.estimate import memory_of, parameters, rates_of, seconds_of
from harness.run.plan import Plan, make_plan
from harness.suite.load import Changes, load_suite
from harness.suite.schema import Accuracy, Decode, Prefill, Sampling
from harness.suite.variant import Variant
from tests.support.fake_suite import fake_suite

FACTS = MachineFacts("Linux", "x86_64", "a cpu", 4, 32 * 2**30, "cpu")
MQA = Variant("native", "mqa", "dense", "fp32", "latent", "eager", "plain")

SUITE: dict[str, Any] = {
    "question": "What can run?",
    "threads": 1,
    "tables": {
        "layer": {
            "question": "?",
            "checkpoint": "v32-layer",
            "baseline": {"form": "mqa"},
            "variants": [{"form": "mqa", "precision": ["fp32", "fp64"]}, {"form": "mqa", "cache": "expanded"}],
            "workloads": [
                {"kind": "decode", "length": 1024, "context": "synthetic"},
                {"kind": "equivalence", "length": 64, "context": "random"},
                {"kind": "prefill", "length": 64},
            ],
        }
    },
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(entry_points=False)


def planned(
    folder: Path, registry: Registry, former: dict[tuple[str, str], float] | None = None, **workload: Any
) -> Plan:
    data = copy.deepcopy(SUITE)
    data["tables"]["layer"]["workloads"][0] |= workload
    path = folder / "what.yaml"
    path.write_text(yaml.safe_dump(data))
    return make_plan(load_suite(path), registry, FACTS, former_seconds=former)


def reasons(plan: Plan, kind: str, **axes: str) -> list[str]:
    (cell,) = [
        one
        for one in plan.cells
        if one.cell.workload["kind"] == kind
        and all(getattr(one.cell.variant, axis) == name for axis, name in axes.items())
    ]
    return cell.reasons


def test_every_reason_is_given(tmp_path: Path, registry: Registry) -> None:
    plan = planned(tmp_path, registry)
    assert reasons(plan, "decode", precision="fp32", cache="latent") == []
    assert reasons(plan, "decode", precision="fp64") == ["precision fp64 is a reference and is never timed"]
    assert reasons(plan, "equivalence", precision="fp64") == []
    assert "form mqa reads latents" in reasons(plan, "decode", cache="expanded")[0]
    both = reasons(plan, "prefill", precision="fp64")
    assert [part in reason for part, reason in zip(("never timed", "tokenizer"), both, strict=True)] == [True, True]


def test_a_context_beyond_the_model_is_an_error_with_key_and_maximum(tmp_path: Path, registry: Registry) -> None:
    longest = PRESETS["v32-layer"].max_position_embeddings
    planned(tmp_path, registry, length=longest - 4, steps=4)
    with pytest.raises(UsageError) as caught:
        planned(tmp_path, registry, length=longest - 3, steps=4)
    assert f"needs {longest + 1} positions; allowed: at most {longest}" in caught.value.message
    assert str(caught.value.where).startswith(str(tmp_path / "what.yaml:"))


def test_another_model_put_into_a_suite_leaves_out_what_is_too_long_for_it(tmp_path: Path, registry: Registry) -> None:
    data = copy.deepcopy(SUITE)
    data["tables"]["layer"]["workloads"] = [{"kind": "decode", "length": [64, 9000], "context": "synthetic"}]
    path = tmp_path / "what.yaml"
    path.write_text(yaml.safe_dump(data))

    def plan(*settings: str) -> Plan:
        return make_plan(load_suite(path, Changes(settings, checkpoint="tiny-v32")), registry, FACTS)

    fp32 = [one for one in plan().cells if one.cell.variant.precision == "fp32" and one.cell.variant.cache == "latent"]
    assert [one.runs for one in fp32] == [True, False]
    assert fp32[1].reasons == [
        "decode of length 9000 needs 9004 positions; allowed: at most 4096, the max_position_embeddings of 'tiny-v32'"
    ]
    for setting in ("tables.layer.workloads.0.length=[64, 9000]", "tables.layer.workloads.0.length=9000"):
        with pytest.raises(UsageError, match="needs 9004 positions"):
            plan(setting)
    path.write_text(yaml.safe_dump(data).replace("- 64\n", "- 8000\n"))
    with pytest.raises(UsageError, match="needs 8004 positions"):
        plan()


def test_stored_times_replace_estimates_and_say_so(tmp_path: Path, registry: Registry) -> None:
    first = planned(tmp_path, registry).cells[0]
    assert not first.stored
    again = planned(tmp_path, registry, {("v32-layer", first.cell.id): 123.0}).cells[0]
    assert (again.stored, again.seconds) == (True, 123.0)
    assert not planned(tmp_path, registry, {("another", first.cell.id): 123.0}).cells[0].stored


def test_the_plans_time_counts_only_what_runs(tmp_path: Path, registry: Registry) -> None:
    """Workers of timed cells are started three times; the oracle has no clock and is started once."""
    plan = planned(tmp_path, registry)
    (table,) = plan.tables
    assert {variant.precision: starts for variant, starts in table.starts.items()} == {"fp32": 3, "fp64": 1}
    loading = sum(starts * table.load_seconds[variant] for variant, starts in table.starts.items())
    assert plan.seconds == pytest.approx(loading + sum(one.seconds for one in plan.cells if one.runs))


def test_workers_fit_together_when_their_memory_does(tmp_path: Path, registry: Registry) -> None:
    (table,) = planned(tmp_path, registry).tables
    together = table.bytes_together
    assert not table.fits_together(together)
    assert table.fits_together(2 * together)


def test_a_token_uses_all_parameters_but_the_experts_that_it_is_not_sent_to() -> None:
    dense, sparse = parameters(PRESETS["v32-layer"]), parameters(PRESETS["v32-moe-layer"])
    assert dense.active == dense.total
    assert sparse.total - sparse.active == (16 - 8) * 3 * 7168 * 2048


def test_estimates_grow_with_work_and_shrink_with_threads() -> None:
    config, sampling = PRESETS["v32-layer"], Sampling()

    def seconds(workload: Any, threads: int = 1, variant: Variant = MQA) -> float:
        return seconds_of(workload, variant, config, sampling, rates_of(FACTS, threads))

    assert seconds(Prefill(2048)) > 2 * seconds(Prefill(1024))
    assert seconds(Prefill(2048), threads=2) < seconds(Prefill(2048))
    assert seconds(Decode(4096, context="text")) > seconds(Decode(4096, context="synthetic"))
    assert seconds(Decode(1024, batch=8)) > seconds(Decode(1024))
    assert seconds(Accuracy("task", limit=10)) < seconds(Accuracy("task", limit=100))
    sparse = MQA.with_options({"selector": "dsa"})
    assert seconds(Decode(131072, context="synthetic"), variant=sparse) < seconds(Decode(131072, context="synthetic"))


def test_the_expanded_cache_costs_what_every_head_keeps() -> None:
    config = PRESETS["v32-layer"]
    expanded = MQA.with_options({"cache": "expanded", "form": "mha"})
    assert estimate.cache_bytes_per_token(MQA, config) == (512 + 64 + 128) * 4
    assert estimate.cache_bytes_per_token(expanded, config) == (128 * (192 + 128) + 128) * 4
    memory = memory_of(Decode(65536, context="synthetic"), expanded, config)
    assert memory.peak >= memory.resting > 65536 * 128 * 320 * 4


def test_workers_that_do_not_fit_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last variant is the baseline: it has to come first all the same, because others are held against it."""
    suite = fake_suite(tmp_path, ["sound", "wrong"], [13, 16])
    suite.path.write_text(
        suite.path.read_text().replace("kernels:\n    - sound\n    - wrong", "kernels: [wrong, sound]")
    )
    suite.path.write_text(
        suite.path.read_text().replace("      - sound\n      - wrong\n", "      - wrong\n      - sound\n")
    )
    monkeypatch.setattr("harness.run.machine.available_memory_bytes", lambda _: 1)
    assert main(["run", str(suite.path), "--out", str(suite.out)]) == 1
    records = suite.records()
    assert [one["context"]["interleaved"] for one in records] == [False] * 4
    ended = [(one["variant"]["kernels"], one["workload"]["length"], one["status"]) for one in records]
    assert ended == [
        ("sound", 13, Status.PASSED),
        ("sound", 16, Status.PASSED),
        ("wrong", 13, Status.INCORRECT),
        ("wrong", 16, Status.PASSED),
    ]
    assert main(["plan", str(suite.path), "--out", str(suite.out)]) == 0
    assert "run one after another" in capsys.readouterr().out
