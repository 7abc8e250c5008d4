"""What the `hf` engine takes and refuses: every reason, from the config alone and without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from harness.contract import MachineFacts, ModelConfig, Query
from harness.contract.registry import Registry
from harness.suite.variant import Variant

FACTS = MachineFacts("Linux", "x86_64", "cpu", 2, 2**34, "cpu")
V32 = ModelConfig(
    model_type="deepseek_v32",
    vocab_size=64,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    kv_lora_rank=16,
    q_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    max_position_embeddings=64,
    mlp_layer_types=("dense", "sparse"),
    n_routed_experts=4,
    n_shared_experts=1,
    index_topk=8,
    index_n_heads=16,
    index_head_dim=16,
)


def reasons(config: ModelConfig, **choices: str) -> list[str]:
    registry = Registry(entry_points=False)
    engine = registry.option("engine", "hf")
    variant = Variant(**{"engine": "hf", **engine.defaults, **choices})
    query = Query(variant, config, FACTS)
    return [*engine.unsupported(query), *registry.option("kernels", "sdpa").unsupported(query)]


def changed(**fields: Any) -> ModelConfig:
    return msgspec.structs.replace(V32, **fields)


@pytest.mark.parametrize("selector", ["dense", "dsa"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_v32_model_runs_with_and_without_its_indexer(selector: str, precision: str) -> None:
    assert reasons(V32, selector=selector, precision=precision) == []


def test_every_axis_gives_its_own_reason() -> None:
    found = reasons(V32, form="mqa", selector="sliding", precision="fp64", cache="expanded", kernels="eager")
    for text in ("form mha, not mqa", "selector dense, dsa, not sliding", "precision fp32, bf16, not fp64"):
        assert any(text in reason for reason in found)
    for text in ("cache latent, not expanded", "kernels sdpa, hf-eager, not eager"):
        assert any(text in reason for reason in found)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("config", "selector", "text"),
    [
        (changed(model_type="deepseek_v3", index_topk=0), "dsa", "needs a checkpoint with an indexer"),
        (changed(q_lora_rank=None), "dsa", "q_lora_rank is null"),
        (changed(rope_interleave=False), "dsa", "rope_interleave is false"),
        (changed(indexer_rope_interleave=True), "dsa", "indexer_rope_interleave false"),
        (changed(model_type="glm_moe_dsa"), "dsa", "indexer_rope_interleave true"),
        (changed(mlp_layer_types=("sparse", "dense")), "dense", "before the first expert layer"),
        (changed(n_shared_experts=0), "dense", "n_shared_experts is 0"),
        (changed(model_type="deepseek_v2", index_topk=0, rope_interleave=False), "dense", "rope_interleave is false"),
        (changed(model_type="deepseek_v2", index_topk=0, hidden_size=66), "dense", "multiple of num_attention_heads"),
    ],
)
def test_models_that_transformers_cannot_hold(config: ModelConfig, selector: str, text: str) -> None:
    (reason,) = reasons(config, selector=selector)
    assert text in reason


def test_the_indexer_does_not_matter_to_a_dense_variant() -> None:
    assert reasons(changed(q_lora_rank=None, indexer_rope_interleave=True), selector="dense") == []


def test_transformers_kernels_refuse_another_engine() -> None:
    registry = Registry(entry_points=False)
    variant = Variant("native", "mha", "dense", "fp32", "latent", "sdpa", "plain")
    (reason,) = registry.option("kernels", "sdpa").unsupported(Query(variant, V32, FACTS))
    assert reason == "kernels sdpa are those of transformers: engine must be hf, not native"


def test_registration_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from harness.contract.registry import Registry; Registry();"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
