"""What the native options say about themselves, without torch: every reason why a variant cannot run."""

from __future__ import annotations

from typing import Any

import pytest

from harness.contract import MachineFacts, Query
from harness.contract.registry import Registry
from harness.model.presets import PRESETS

REGISTRY = Registry(entry_points=False)


def _reasons(preset: str, gpu: tuple[int, int] | None = None, **choices: str) -> list[str]:
    device = "cpu" if gpu is None else "cuda"
    facts: dict[str, Any] = {"system": "Linux", "architecture": "x86_64", "cpu_model": "", "cpu_count": 2}
    machine = MachineFacts(**facts, memory_bytes=1 << 34, device=device, compute_capability=gpu)
    return REGISTRY.unsupported(Query(REGISTRY.variant(choices), PRESETS[preset], machine))


def test_the_default_variant_runs() -> None:
    variant = REGISTRY.variant({})
    assert variant.id == "native/auto/dense/fp32/latent/eager/plain"
    assert all(_reasons(preset) == [] for preset in PRESETS)


@pytest.mark.parametrize(
    ("preset", "choices", "expected"),
    [
        ("tiny-v32", {"selector": "dsa", "form": "mqa"}, 0),
        ("tiny-v32", {"selector": "dsa", "form": "mha", "cache": "expanded", "precision": "bf16"}, 0),
        ("tiny-v3", {"selector": "dsa"}, 1),
        ("tiny-v32", {"form": "auto", "cache": "expanded"}, 1),
        ("tiny-v32", {"form": "mqa", "cache": "expanded"}, 1),
        ("tiny-v3", {"form": "mqa", "cache": "expanded", "selector": "dsa"}, 2),
        ("tiny-v3", {"kernels": "sdpa"}, 1),
        ("tiny-v3", {"engine": "hf", "kernels": "eager"}, 2),
    ],
)
def test_reasons(preset: str, choices: dict[str, str], expected: int) -> None:
    assert len(_reasons(preset, **choices)) == expected


def test_bf16_wants_a_gpu_that_has_it() -> None:
    assert _reasons("tiny-v3", precision="bf16") == []
    assert _reasons("tiny-v3", precision="bf16", gpu=(9, 0)) == []
    old = _reasons("tiny-v3", precision="bf16", gpu=(7, 5))
    assert old == ["precision bf16 needs compute capability 8.0 or newer, this GPU has 7.5"]


def test_only_the_oracle_is_reference_only() -> None:
    options = [
        option for axis in ("form", "selector", "precision", "cache", "kernels") for option in REGISTRY.options(axis)
    ]
    assert [option.name for option in options if option.reference_only] == ["fp64"]


def test_what_an_option_names_can_be_loaded() -> None:
    for axis in ("form", "selector", "precision", "cache", "decoding"):
        for option in REGISTRY.options(axis):
            assert option.load().name == option.name
