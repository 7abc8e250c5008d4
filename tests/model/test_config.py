"""config.json by transformers' rules: defaults of absent keys, both rope spellings, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.contract import ModelConfig
from harness.errors import UsageError
from tests.support.checkpoints import MODEL_TYPES, tiny_config

DIMENSIONS = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "moe_intermediate_size": 24,
    "n_routed_experts": 32,
}


def _raw(model_type: str = "deepseek_v3", **changes: Any) -> dict[str, Any]:
    return DIMENSIONS | {"model_type": model_type} | changes


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_absent_keys_take_transformers_defaults(model_type: str) -> None:
    """Whatever our config says of a file that names only the dimensions, transformers' class says too."""
    from transformers import AutoConfig

    raw = _raw(model_type, num_experts_per_tok=4)
    ours, theirs = ModelConfig.from_hf(raw), AutoConfig.for_model(**raw)
    names = ["q_lora_rank", "rms_norm_eps", "max_position_embeddings", "routed_scaling_factor", "n_shared_experts"]
    names += ["num_experts_per_tok", "attention_bias", "tie_word_embeddings"]
    if model_type != "deepseek_v2":
        names += ["n_group", "topk_group", "norm_topk_prob"]
    if ours.has_indexer:
        names += ["index_topk", "index_n_heads", "index_head_dim"]
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}
    dense = theirs.first_k_dense_replace if hasattr(theirs, "first_k_dense_replace") else 3
    assert ours.mlp_layer_types.count("dense") == dense
    assert ours.rope.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_written_and_read_back(model_type: str) -> None:
    """Ours -> config.json -> ours is the identity; and transformers' own file is understood alike."""
    theirs = tiny_config(model_type)
    ours = ModelConfig.from_hf(json.loads(theirs.to_json_string(use_diff=False)))
    assert ModelConfig.from_hf(json.loads(json.dumps(ours.to_hf()))) == ours


def test_null_is_not_absent() -> None:
    assert ModelConfig.from_hf(_raw(q_lora_rank=None)).q_lora_rank is None
    assert ModelConfig.from_hf(_raw()).q_lora_rank == 1536


def test_both_rope_spellings() -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 1.0}
    old = ModelConfig.from_hf(_raw(rope_theta=5e4, rope_scaling={"type": "yarn", **yarn}))
    new = ModelConfig.from_hf(_raw(rope_parameters={"rope_type": "yarn", "rope_theta": 5e4, **yarn}))
    assert old.rope == new.rope
    assert old.rope.rope_type == "yarn"
    assert old.softmax_scale == pytest.approx(20**-0.5 * (0.1 * 1.3862943611 + 1) ** 2)


def test_a_yarn_factor_of_null_is_the_ratio_of_the_contexts() -> None:
    rope = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 512}
    assert ModelConfig.from_hf(_raw(rope_parameters=rope)).rope.factor == 8.0


def test_v2_never_renormalises_and_v3_always_rotates_as_told() -> None:
    assert ModelConfig.from_hf(_raw("deepseek_v2", norm_topk_prob=True, num_experts_per_tok=2)).norm_topk_prob is False
    assert ModelConfig.from_hf(_raw(rope_interleave=False)).rope_interleave is False
    assert ModelConfig.from_hf(_raw("deepseek_v32", rope_interleave=False)).rope_interleave is True
    assert ModelConfig.from_hf(_raw("glm_moe_dsa")).indexer_rope_interleave is True
    assert ModelConfig.from_hf(_raw("deepseek_v32", indexer_rope_interleave=True)).indexer_rope_interleave is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "deepseek_v33"}, "unknown model_type 'deepseek_v33'; did you mean 'deepseek_v3"),
        ({"model_type": "llama"}, "unknown model_type 'llama'; allowed: deepseek_v2"),
        ({"hidden_size": None}, "missing required field `hidden_size`"),
        ({"hidden_size": "64"}, r"Expected `int`, got `str` - at `\$.hidden_size`"),
        ({"num_hidden_layers": "5"}, r"Expected `int`, got `str` - at `\$.num_hidden_layers`"),
        ({"hidden_act": "gelu"}, "unknown hidden_act 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias is true; allowed: false"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2; allowed: num_attention_heads, 4"),
        ({"rope_parameters": {"rope_type": "linear"}}, "Invalid enum value 'linear'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5; allowed: 1"),
        ({"model_type": "glm_moe_dsa", "index_topk_freq": 4}, "top-k is shared across layers"),
        ({"model_type": "glm_moe_dsa", "indexer_types": ["full", "shared"]}, "top-k is shared across layers"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim is 7, it must be even"),
        ({"n_routed_experts": 30}, "n_routed_experts 30 is not a multiple of n_group 8"),
        ({"topk_group": 9}, "topk_group is 9; allowed: 1 to n_group, 8"),
        ({"n_group": 32}, "groups of 1 expert"),
        ({"num_experts_per_tok": 17}, "num_experts_per_tok is 17; allowed: 1 to 16"),
        ({"mlp_layer_types": ["dense"]}, "mlp_layer_types has 1 entries for 5 layers"),
        ({"model_type": "deepseek_v32", "index_head_dim": 4}, "at least qk_rope_head_dim 8"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        ModelConfig.from_hf(_raw(**changes), "there/config.json")
    assert error.value.where == "there/config.json"


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a checkpoint is a Hugging Face directory"):
        ModelConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(UsageError, match="not valid JSON"):
        ModelConfig.read(tmp_path)
