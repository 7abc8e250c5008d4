"""Translation between a Hugging Face `config.json` and `ModelConfig`, by transformers' own rules. Torch-free.

Keys that a file leaves out take the default of transformers' config class (configuration_deepseek_v2.py and its
siblings, 5.23). Dimensions that shape a tensor have no default here: a file must name them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.errors import UsageError, unknown

MODEL_TYPES = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa")

_V3_DEFAULTS = {
    "max_position_embeddings": 4096,
    "q_lora_rank": 1536,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "first_k_dense_replace": 3,
}
_V32_DEFAULTS = _V3_DEFAULTS | {
    "max_position_embeddings": 163840,
    "index_topk": 2048,
    "index_n_heads": 64,
    "index_head_dim": 128,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        "max_position_embeddings": 2048,
        "q_lora_rank": 1536,
        "n_shared_experts": 2,
        "routed_scaling_factor": 1.0,
        "topk_method": "greedy",
        "first_k_dense_replace": 0,
    },
    "deepseek_v3": _V3_DEFAULTS,
    "deepseek_v32": _V32_DEFAULTS,
    "glm_moe_dsa": _V32_DEFAULTS
    | {
        "max_position_embeddings": 202752,
        "q_lora_rank": 2048,
        "n_group": 1,
        "topk_group": 1,
        "rms_norm_eps": 1e-5,
        "index_n_heads": 32,
        "indexer_rope_interleave": True,
    },
}
"""Model type -> what transformers assumes for keys that a config.json does not have."""

CLASSES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
    "glm_moe_dsa": "GlmMoeDsaForCausalLM",
}
"""Model type -> the transformers class, as `architectures` names it."""


def fields_from_hf(raw: dict[str, Any], known: tuple[str, ...], where: str) -> dict[str, Any]:
    """Values for the fields `known` of `ModelConfig`, still unchecked.

    Raises UsageError for a model type outside the family, or a feature that this model definition does not have.
    """
    model_type = raw.get("model_type", "")
    if model_type not in MODEL_TYPES:
        raise unknown("model_type", str(model_type), MODEL_TYPES, where)
    _refuse_other_features(raw, where)
    # A key that is there and null keeps its meaning (no q_lora, no groups); only absent keys take a default.
    complete = DEFAULTS[model_type] | raw
    complete.setdefault("num_nextn_predict_layers", complete.get("num_mtp_layers"))  # the newer spelling
    fields = {name: complete[name] for name in known if complete.get(name) is not None}
    return fields | {
        **_fixed(model_type, complete),
        "mlp_layer_types": _mlp_layer_types(complete),
        "fp8_block": _fp8_block(complete, where),
        "torch_dtype": complete.get("dtype") or complete.get("torch_dtype") or "float32",
        "eos_token_id": _first(complete.get("eos_token_id")),
    }


def rope_from_hf(raw: dict[str, Any]) -> dict[str, Any]:
    """Both spellings: `rope_parameters` (transformers 5) and `rope_theta` + `rope_scaling` (before)."""
    rope = {"rope_theta": raw.get("rope_theta") or 10_000.0} | (
        raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    )
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if rope["rope_type"] != "default":
        # transformers falls back to the extended maximum, and takes a factor of null as the ratio of the two.
        extended = (DEFAULTS[raw["model_type"]] | raw).get("max_position_embeddings")
        original = rope.setdefault("original_max_position_embeddings", extended)
        if rope.get("factor") is None and isinstance(original, int) and isinstance(extended, int):
            rope["factor"] = extended / original
    return {name: value for name, value in rope.items() if value is not None}


def to_hf(config: Any) -> dict[str, Any]:
    """The content of a `config.json` that transformers reads as this `ModelConfig`."""
    fields = msgspec.to_builtins(config)
    rope = {name: value for name, value in fields.pop("rope").items() if value is not None}
    if rope["rope_type"] == "default":
        rope = {name: rope[name] for name in ("rope_type", "rope_theta")}
    layers = list(fields.pop("mlp_layer_types"))
    block, dtype = fields.pop("fp8_block"), fields.pop("torch_dtype")
    raw = {name: value for name, value in fields.items() if not name.startswith("index") or config.has_indexer}
    raw |= {
        "architectures": [CLASSES[config.model_type]],
        "hidden_act": "silu",
        "num_key_value_heads": config.num_attention_heads,
        "first_k_dense_replace": layers.count("dense"),
        "rope_parameters": rope,
        "dtype": dtype,
    }
    if config.has_indexer:
        raw["mlp_layer_types"] = layers
    if block is not None:
        raw["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(block)}
    return raw


def _fixed(model_type: str, complete: dict[str, Any]) -> dict[str, Any]:
    """What the model type alone decides (transformers keeps it in code, whatever config.json says)."""
    if model_type == "deepseek_v2":
        # The released remote code renormalises when norm_topk_prob is set; transformers' V2 never does.
        return {"scoring_func": "softmax", "norm_topk_prob": False, "rope_interleave": True}
    router = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    interleave = complete.get("rope_interleave") is not False if model_type == "deepseek_v3" else True
    indexed = {} if model_type == "glm_moe_dsa" else {"indexer_rope_interleave": False}
    return router | indexed | {"rope_interleave": interleave}


def _mlp_layer_types(complete: dict[str, Any]) -> list[str]:
    if complete.get("mlp_layer_types"):
        return complete["mlp_layer_types"]
    layers, dense = complete.get("num_hidden_layers"), complete.get("first_k_dense_replace") or 0
    if not isinstance(layers, int) or not isinstance(dense, int):
        return []  # the caller's type check names the field
    dense = min(dense, layers) if complete.get("n_routed_experts") else layers
    return ["dense"] * dense + ["sparse"] * (layers - dense)


def _fp8_block(complete: dict[str, Any], where: str) -> tuple[int, int] | None:
    quantization = complete.get("quantization_config")
    if not quantization:
        return None
    if quantization.get("quant_method") != "fp8":
        raise unknown("quant_method", str(quantization.get("quant_method")), ["fp8"], where)
    rows, columns = quantization.get("weight_block_size") or (128, 128)
    return rows, columns


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _refuse_other_features(raw: dict[str, Any], where: str) -> None:
    """Features that would change the numbers and that this model definition does not have."""
    if raw.get("hidden_act", "silu") != "silu":
        raise unknown("hidden_act", str(raw["hidden_act"]), ["silu"], where)
    heads, groups = raw.get("num_attention_heads"), raw.get("num_key_value_heads")
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    partial = rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1
    features = [
        ("mlp_bias is true; allowed: false", bool(raw.get("mlp_bias"))),
        (f"num_key_value_heads is {groups}; allowed: num_attention_heads, {heads}", groups not in (None, heads)),
        (f"partial_rotary_factor is {partial}; allowed: 1", partial != 1),
        (f"moe_layer_freq is {raw.get('moe_layer_freq')}; allowed: 1", raw.get("moe_layer_freq", 1) != 1),
        ("top-k is shared across layers (indexer_types, index_topk_pattern or index_topk_freq)", _shares_topk(raw)),
    ]
    reasons = [reason for reason, present in features if present]
    if reasons:
        raise UsageError("this model definition does not have: " + "; ".join(reasons), where)


def _shares_topk(raw: dict[str, Any]) -> bool:
    """GLM's layers without an indexer of their own (arXiv 2603.12201)."""
    types = raw.get("indexer_types") or raw.get("index_topk_pattern") or ()
    return any(kind in ("shared", "S") for kind in types) or (raw.get("index_topk_freq") or 1) > 1
