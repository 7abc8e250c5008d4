"""A model's dimensions under their Hugging Face names, read from `config.json` without torch.

One config serves the family: DeepSeek-V2, V3, V3.2 and GLM's DSA models. What differs between them is
data here (router scoring, group rule, rotary layouts, indexer), so the model needs no case per model type.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.errors import UsageError, unknown

MODEL_TYPES = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa")


class RopeConfig(msgspec.Struct, frozen=True):
    """Rotary embedding: plain, or YaRN (arXiv 2309.00071; DeepSeek-V3 section 4.3)."""

    rope_theta: float = 10_000.0
    rope_type: Literal["default", "yarn"] = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    attention_factor: float | None = None
    truncate: bool = True

    @property
    def softmax_mscale(self) -> float:
        """What YaRN multiplies the softmax scale with: (0.1 * mscale_all_dim * ln(factor) + 1)^2."""
        if self.rope_type == "default" or not self.mscale_all_dim or self.factor <= 1:
            return 1.0
        return (0.1 * self.mscale_all_dim * math.log(self.factor) + 1.0) ** 2


class ModelConfig(msgspec.Struct, frozen=True):
    """Dimensions and switches of one model; field names are those of the Hugging Face config."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    max_position_embeddings: int
    q_lora_rank: int | None = None
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    rope: RopeConfig = RopeConfig()
    rope_interleave: bool = True

    mlp_layer_types: tuple[str, ...] = ()
    """Per layer `dense` or `sparse` (mixture of experts)."""
    moe_intermediate_size: int = 0
    n_routed_experts: int = 0
    n_shared_experts: int = 0
    num_experts_per_tok: int = 0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    scoring_func: Literal["softmax", "sigmoid"] = "softmax"
    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"] = "greedy"

    index_topk: int = 0
    index_n_heads: int = 0
    index_head_dim: int = 0
    indexer_rope_interleave: bool = False

    num_nextn_predict_layers: int = 0
    fp8_block: tuple[int, int] | None = None
    """Block of `weight_scale_inv` when the checkpoint stores FP8 weights, such as (128, 128)."""
    torch_dtype: str = "float32"
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def qk_head_dim(self) -> int:
        """Width of a query head: nope part plus rope part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """qk_head_dim^-0.5, times YaRN's factor."""
        return self.qk_head_dim**-0.5 * self.rope.softmax_mscale

    @property
    def has_indexer(self) -> bool:
        """True when the checkpoint brings DSA's lightning indexer."""
        return self.index_topk > 0

    @classmethod
    def from_hf(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Translate the content of a Hugging Face `config.json`.

        Raises UsageError for a model type outside the family, a missing or wrongly typed dimension,
        or a feature that this model definition does not have (named in the message).
        """
        model_type = raw.get("model_type", "")
        if model_type not in MODEL_TYPES:
            raise unknown("model_type", str(model_type), MODEL_TYPES, where)
        fields = {name: raw[name] for name in cls.__struct_fields__ if raw.get(name) is not None}
        fields |= _defaults_of(model_type, raw)
        fields |= {
            "rope": _rope(raw, where),
            "mlp_layer_types": _mlp_layer_types(raw),
            "fp8_block": _fp8_block(raw, where),
            "torch_dtype": raw.get("dtype") or raw.get("torch_dtype") or "float32",
            "eos_token_id": _first(raw.get("eos_token_id")),
        }
        _refuse_other_features(raw, where)
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"not a usable model config: {error}", where) from None

    @classmethod
    def read(cls, directory: Path) -> ModelConfig:
        """Read `directory/config.json`. Raises UsageError when it is missing or is not JSON."""
        path = directory / "config.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise UsageError("no config.json there; a checkpoint is a Hugging Face directory", str(directory)) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"not valid JSON: {error}", str(path)) from None
        return cls.from_hf(raw, str(path))


def _defaults_of(model_type: str, raw: dict[str, Any]) -> dict[str, Any]:
    """What the model type alone decides (transformers keeps these in code, not in config.json)."""
    if model_type == "deepseek_v2":
        # transformers' V2 never renormalises the routing weights, whatever norm_topk_prob says.
        return {
            "scoring_func": "softmax",
            "topk_method": raw.get("topk_method") or "greedy",
            "norm_topk_prob": False,
            "n_group": raw.get("n_group") or 1,
            "topk_group": raw.get("topk_group") or 1,
        }
    router = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": raw.get("norm_topk_prob", True)}
    if model_type == "glm_moe_dsa":
        return router | {"indexer_rope_interleave": raw.get("indexer_rope_interleave", True)}
    return router


def _rope(raw: dict[str, Any], where: str) -> RopeConfig:
    """Both spellings: `rope_parameters` (transformers 5) and `rope_theta` + `rope_scaling` (before)."""
    merged = (
        {"rope_theta": raw.get("rope_theta", 10_000.0)}
        | (raw.get("rope_scaling") or {})
        | (raw.get("rope_parameters") or {})
    )
    merged["rope_type"] = merged.get("rope_type") or merged.pop("type", None) or "default"
    known = {name: merged[name] for name in RopeConfig.__struct_fields__ if merged.get(name) is not None}
    try:
        return msgspec.convert(known, RopeConfig)
    except msgspec.ValidationError as error:
        raise UsageError(f"rope parameters: {error}", where) from None


def _mlp_layer_types(raw: dict[str, Any]) -> list[str]:
    if raw.get("mlp_layer_types"):
        return raw["mlp_layer_types"]
    layers = raw.get("num_hidden_layers") or 0
    default_dense = 0 if raw["model_type"] == "deepseek_v2" else 3
    dense = raw.get("first_k_dense_replace")
    dense = layers if not raw.get("n_routed_experts") else min(default_dense if dense is None else dense, layers)
    return ["dense"] * dense + ["sparse"] * (layers - dense)


def _fp8_block(raw: dict[str, Any], where: str) -> tuple[int, int] | None:
    quantization = raw.get("quantization_config")
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
    if raw.get("mlp_bias"):
        raise UsageError("mlp_bias is true; allowed: false", where)
    if any(kind == "shared" for kind in raw.get("indexer_types") or ()):
        raise UsageError("indexer_types has 'shared' layers (top-k shared across layers); allowed: full", where)
    if raw.get("moe_layer_freq", 1) != 1:
        raise UsageError(f"moe_layer_freq is {raw['moe_layer_freq']}; allowed: 1", where)
