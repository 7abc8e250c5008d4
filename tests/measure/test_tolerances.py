"""The table of tolerances: it has to let correct variants pass and stop planted faults, both with room to spare."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch

from harness.contract.config import ModelConfig
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest, Runner
from harness.measure.answers import faults, row_errors
from harness.measure.tolerances import MOST, TOLERANCES, Tolerance, tolerance
from harness.model.presets import resolve
from harness.suite.variant import Variant
from tests.measure.fakes import CONFIG, DENSE, DSA

LENGTH, STEPS = 200, 4

FAULTS: dict[str, dict[str, object]] = {
    "rotary layout": {"rope_interleave": False},
    "an expert fewer": {"num_experts_per_tok": 1},
    "routed scaling": {"routed_scaling_factor": 1.1},
}
INDEX_FAULTS: dict[str, dict[str, object]] = {
    "index rotary layout": {"indexer_rope_interleave": True},
    "a key fewer": {"index_topk": 15},
}


def runner(changes: dict[str, object] | None = None, preset: str = "tiny-v32", **options: str) -> Runner:
    """A native runner of a preset, with some config fields changed behind its back: same weights, another function."""
    registry = Registry(entry_points=False)
    variant = registry.variant({"engine": "native", **options})
    config = msgspec.structs.replace(resolve(preset), **(changes or {}))
    build = registry.option("engine", "native").load()
    built: Runner = build(EngineRequest(preset, config, variant, registry.load(variant)))
    return built


@torch.inference_mode()
def answer(one: Runner) -> torch.Tensor:
    """Logits [3 + STEPS, vocab]: after three prompts, and after decode steps that follow the last of them."""
    tokens = torch.randint(one.config.vocab_size, (3, LENGTH + STEPS), generator=torch.Generator().manual_seed(5))
    state = one.new_state(3, LENGTH + STEPS)
    rows = [one.prefill(tokens[:, :LENGTH], state)]
    rows += [one.decode(tokens[:, LENGTH + step], state)[-1:] for step in range(STEPS)]
    return torch.cat(rows)


@pytest.fixture(scope="module", params=["dense", "dsa"])
def reference(request: pytest.FixtureRequest) -> tuple[str, torch.Tensor]:
    """Selector, and what the reference answers."""
    return request.param, answer(runner(form="mha", selector=request.param))


def judged(
    selector: str, precision: str, logits: torch.Tensor, expected: torch.Tensor, cache: str = "latent"
) -> list[str]:
    variant = DENSE.with_options({"selector": selector, "precision": precision, "cache": cache})
    allowed = tolerance(variant, DENSE.with_options({"selector": selector}), resolve("tiny-v32"))
    return faults(row_errors(logits, expected), allowed)


@pytest.mark.parametrize("form", ["mha", "mqa", "auto"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_correct_variants_pass(reference: tuple[str, torch.Tensor], form: str, precision: str) -> None:
    selector, expected = reference
    logits = answer(runner(form=form, selector=selector, precision=precision))
    assert judged(selector, precision, logits, expected) == []


@pytest.mark.parametrize(("precision", "cache"), [("fp8", "latent"), ("fp32", "fp8"), ("fp8_ue8m0", "fp8")])
def test_variants_that_quantise_pass_and_nonsense_does_not(
    reference: tuple[str, torch.Tensor], precision: str, cache: str
) -> None:
    selector, expected = reference
    logits = answer(runner(form="mqa", selector=selector, precision=precision, cache=cache))
    assert judged(selector, precision, logits, expected, cache) == []
    assert judged(selector, "fp32", logits, expected)  # far from what FP32 is allowed
    assert judged(selector, precision, logits.roll(1, 0), expected, cache)


def test_correct_fp32_variants_are_far_below_their_tolerance(reference: tuple[str, torch.Tensor]) -> None:
    selector, expected = reference
    errors = row_errors(answer(runner(form="mqa", selector=selector)), expected)
    assert max(errors) < TOLERANCES["fp32", selector].typical / 20


def test_planted_faults_are_incorrect(reference: tuple[str, torch.Tensor]) -> None:
    selector, expected = reference
    for name, changes in (FAULTS | (INDEX_FAULTS if selector == "dsa" else {})).items():
        logits = answer(runner(changes, form="mqa", selector=selector))
        assert judged(selector, "fp32", logits, expected), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_that_have_nothing_to_do_with_the_question_are_incorrect(
    reference: tuple[str, torch.Tensor], precision: str
) -> None:
    selector, expected = reference
    for wrong in (expected.roll(1, -1), torch.zeros_like(expected), expected.roll(1, 0), -expected):
        assert judged(selector, precision, wrong, expected)


def test_coarser_means_looser() -> None:
    for one in TOLERANCES.values():
        assert one.reason
        assert one.typical < one.worst <= MOST < math.sqrt(2)
    for selector in ("dense", "dsa"):
        typical = [TOLERANCES[one, selector].typical for one in ("fp32", "bf16", "fp8 cache", "fp8")]
        assert typical == sorted(typical)


def test_the_coarser_of_two_cells_decides() -> None:
    bf16 = DENSE.with_options({"precision": "bf16"})
    assert tolerance(DENSE, bf16, CONFIG) == tolerance(bf16, DENSE, CONFIG) == TOLERANCES["bf16", "dense"]
    assert tolerance(DENSE.with_options({"precision": "fp64"}), DENSE, CONFIG) == TOLERANCES["fp32", "dense"]
    packed = DENSE.with_options({"cache": "fp8"})
    assert tolerance(packed, bf16, CONFIG) == TOLERANCES["fp8 cache", "dense"]
    assert tolerance(packed.with_options({"precision": "fp8"}), bf16, CONFIG) == TOLERANCES["fp8", "dense"]


@pytest.mark.parametrize(
    ("own", "known"),
    [
        (DENSE.with_options({"precision": "fp4-of-a-plugin"}), DENSE.with_options({"precision": "bf16"})),
        (DSA.with_options({"selector": "nsa"}), DSA),
    ],
)
def test_what_has_no_entry_is_held_to_the_coarsest_that_has(own: Variant, known: Variant) -> None:
    assert tolerance(own, DENSE, CONFIG) == tolerance(known, DENSE, CONFIG)


def test_a_swapped_key_counts_by_its_share_of_the_selection() -> None:
    def of(topk: int, precision: str) -> Tolerance:
        config: ModelConfig = msgspec.structs.replace(CONFIG, index_topk=topk)
        return tolerance(DSA.with_options({"precision": precision}), DSA, config)

    assert of(2048, "bf16").typical == pytest.approx(0.05 + 0.03125)
    assert of(2048, "fp32").typical == TOLERANCES["fp32", "dsa"].typical
    assert of(2048, "fp32").worst == pytest.approx(0.01 + 4 * 0.03125)
    assert of(2, "fp32").worst == MOST


def test_shares_and_worst_rows_by_hand() -> None:
    allowed = Tolerance(typical=0.1, share=0.5, worst=0.5, reason="why")
    assert faults([0.05, 0.3], allowed) == []
    assert "best 2 of 3 rows); allowed: 0.1 (why)" in faults([0.05, 0.3, 0.3], allowed)[0]
    assert "off by 0.6" in faults([0.05, 0.6], allowed)[0]
    assert len(faults([float("nan")], allowed)) == 2
