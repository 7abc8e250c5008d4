"""Cache `fp8`: its bytes, its forms, its reasons, and what a record says of it."""

import dataclasses
from typing import Any

import msgspec
import pytest
import torch

from harness import load_runner
from harness.contract import MachineFacts, Query
from harness.contract.cache import NewKeys
from harness.contract.operators import reference_operators
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest, Runner
from harness.contract.span import Span
from harness.model.presets import PRESETS
from tests.support.checkpoints import random_tokens

REGISTRY = Registry(entry_points=False)
FACTS = MachineFacts("Linux", "x86_64", "cpu", 1, 2**33, "cpu")
TOKENS = random_tokens(2, 40, vocab_size=128)


def runner(preset: str = "tiny-v32", ops: Any = None, **options: str) -> Runner:
    variant = REGISTRY.variant({"engine": "native", "cache": "fp8", **options})
    parts = REGISTRY.load(variant) | ({} if ops is None else {"kernels": ops})
    built: Runner = REGISTRY.option("engine", "native").load()(EngineRequest(preset, PRESETS[preset], variant, parts))
    return built


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_v32_layer_keeps_788_bytes_a_token(precision: str) -> None:
    cache = REGISTRY.option("cache", "fp8").load()
    dtype = REGISTRY.option("precision", precision).load().dtype
    config = PRESETS["v32-layer"]
    assert cache.bytes_per_token(config, dtype, {}) == 656
    assert cache.bytes_per_token(config, dtype, {"index_key": config.index_head_dim}) == 656 + 132
    assert cache.bytes_per_token(config, dtype, {"other": 3}) == 656 + 3 * dtype.itemsize
    assert cache.is_lossy(config, dtype)


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_both_forms_read_the_same_rows(selector: str) -> None:
    expanded, absorbed = (runner(form=form, selector=selector).logits(TOKENS) for form in ("mha", "mqa"))
    assert float((expanded - absorbed).norm() / absorbed.norm()) < 1e-5


@pytest.mark.parametrize("selector", ["dense", "dsa"])
def test_kernels_that_cannot_read_packed_rows_get_them_unpacked(selector: str) -> None:
    bare = dataclasses.replace(reference_operators(), fused={})
    given = runner(form="mqa", selector=selector, ops=bare).logits(TOKENS)
    assert torch.equal(given, runner(form="mqa", selector=selector).logits(TOKENS))


def test_packed_rows_are_read_packed() -> None:
    """Where the kernels can: nothing else unpacks them."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("unpacked")

    changes: dict[str, Any] = {"unpack_latents": refuse, "index_scores": refuse}
    strict = dataclasses.replace(reference_operators(), **changes)
    assert runner(form="mqa", selector="dsa", ops=strict).logits(TOKENS).isfinite().all()


def test_index_keys_come_back_rotated_back() -> None:
    cache, config, ops = REGISTRY.option("cache", "fp8").load(), PRESETS["tiny-v32"], reference_operators()
    stored = cache.stored(config, torch.float32, {"index_key": 16, "other": 3})
    layer = cache.new_layer(stored, 2, 8, "cpu", ops)
    rows, keys = torch.randn(2, 5, 40), torch.randn(2, 5, 16)
    new = NewKeys(rows[..., :32], rows[..., 32:], torch.randn(4, 16, 32), torch.randn(4, 16, 32))
    new.fields.update({"index_key": keys, "other": rows[..., :3]})
    layer.write(new, Span((2, 0), (7, 5), 5))
    assert torch.equal(layer.field("other", 7)[0, 2:], rows[0, :, :3])
    back = layer.field("index_key", 5)[1]
    assert float((back - keys[1]).norm() / keys[1].norm()) < 4e-2
    assert (layer.storage["latent_row"][1, 5:] == 0).all()


def test_every_reason_is_given() -> None:
    config = msgspec.structs.replace(PRESETS["tiny-v32"], kv_lora_rank=30, index_head_dim=24)
    variant = REGISTRY.variant({"engine": "native", "cache": "fp8", "selector": "dsa"})
    reasons = REGISTRY.unsupported(Query(variant, config, FACTS))
    assert [reason for reason in reasons if "kv_lora_rank is 30" in reason]
    assert [reason for reason in reasons if "index_head_dim is 24" in reason]
    dense = variant.with_options({"selector": "dense"})
    assert len(REGISTRY.unsupported(Query(dense, config, FACTS))) == 1


@pytest.mark.parametrize(
    ("options", "emulated"),
    [
        ({"cache": "latent"}, set()),
        ({"selector": "dense"}, set()),
        ({"selector": "dsa"}, {"fp8_index_scores"}),
        ({"precision": "fp8", "cache": "latent"}, {"fp8_gemm", "fp8_grouped_experts"}),
        ({"precision": "fp8_ue8m0", "selector": "dsa"}, {"fp8_gemm", "fp8_grouped_experts", "fp8_index_scores"}),
    ],
)
def test_a_record_says_what_was_emulated_and_that_alone(options: dict[str, str], emulated: set[str]) -> None:
    """Storing FP8 is real work anywhere; only products of E4M3 numbers are not what they would be."""
    chosen: dict[str, Any] = {"cache": "fp8", **options}
    resolved = load_runner("tiny-v32", **chosen).resolved()
    assert {slot for slot, value in resolved.items() if value.endswith(" (emulated)")} == emulated
    assert ("pack_latents" in resolved) == (options.get("cache", "fp8") == "fp8")
