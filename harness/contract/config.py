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

from harness.contract.hf_config import MODEL_TYPES, fields_from_hf, rope_from_hf, to_hf
from harness.errors import UsageError

__all__ = ["MODEL_TYPES", "ModelConfig", "RopeConfig"]


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

    mlp_layer_types: tuple[Literal["dense", "sparse"], ...] = ()
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
    """Multi-token-prediction layers that the checkpoint says it brings (`harness.model.mtp`)."""
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

    def mlp_type(self, layer: int) -> Literal["dense", "sparse"]:
        """The network of a layer; prediction layers, numbered after the last one, have one like the last one's."""
        return self.mlp_layer_types[min(layer, self.num_hidden_layers - 1)]

    def mtp_numbers(self) -> range:
        """The layer numbers of the prediction layers."""
        return range(self.num_hidden_layers, self.num_hidden_layers + self.num_nextn_predict_layers)

    @classmethod
    def from_hf(cls, raw: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Translate the content of a Hugging Face `config.json`.

        Raises UsageError for a model type outside the family, a missing or wrongly typed dimension,
        or a feature that this model definition does not have (named in the message).
        """
        fields = fields_from_hf(raw, cls.__struct_fields__, where)
        try:
            rope = msgspec.convert(rope_from_hf(raw), RopeConfig)
            config = msgspec.convert(fields | {"rope": rope}, cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"not a usable model config: {error}", where) from None
        problems = config.problems()
        if problems:
            raise UsageError("not a usable model config: " + "; ".join(problems), where)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The content of a `config.json` that transformers reads as this model."""
        return to_hf(self)

    def problems(self) -> list[str]:
        """What is wrong between fields, each a short sentence naming them; empty for a usable config."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank", "v_head_dim")
        found = [f"{name} is {getattr(self, name)}, it must be at least 1" for name in sizes if getattr(self, name) < 1]
        if self.qk_rope_head_dim < 2 or self.qk_rope_head_dim % 2:
            found.append(f"qk_rope_head_dim is {self.qk_rope_head_dim}, it must be even and at least 2")
        if self.num_nextn_predict_layers < 0:
            found.append(f"num_nextn_predict_layers is {self.num_nextn_predict_layers}, it must be at least 0")
        if len(self.mlp_layer_types) != self.num_hidden_layers:
            found.append(f"mlp_layer_types has {len(self.mlp_layer_types)} entries for {self.num_hidden_layers} layers")
        if self.has_indexer and (self.index_n_heads < 1 or self.index_head_dim < self.qk_rope_head_dim):
            found.append(
                f"index_n_heads is {self.index_n_heads} and index_head_dim {self.index_head_dim}; "
                f"allowed: at least 1, and at least qk_rope_head_dim {self.qk_rope_head_dim}"
            )
        return found + (self._router_problems() if "sparse" in self.mlp_layer_types else [])

    def _router_problems(self) -> list[str]:
        experts, groups, kept = self.n_routed_experts, self.n_group, self.topk_group
        if groups < 1 or experts < 1 or experts % groups:
            return [f"n_routed_experts {experts} is not a multiple of n_group {groups}"]
        if not 1 <= kept <= groups:
            return [f"topk_group is {kept}; allowed: 1 to n_group, {groups}"]
        if self.topk_method == "noaux_tc" and experts // groups < 2:
            return [f"groups of {experts // groups} expert; noaux_tc ranks a group by its two best"]
        within = experts if self.topk_method == "greedy" else experts // groups * kept
        if not 1 <= self.num_experts_per_tok <= within:
            return [f"num_experts_per_tok is {self.num_experts_per_tok}; allowed: 1 to {within}"]
        return []

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
