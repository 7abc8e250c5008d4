"""Checkpoints that need no files: real shapes with few layers and seeded random weights. Torch-free.

Slices of the real models let one machine measure what a layer costs; `tiny-*` are for tests and the conformance kit.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import msgspec

from harness.contract.config import ModelConfig, RopeConfig
from harness.errors import UsageError

WEIGHTS_VERSION = 1
"""Part of a preset's identity: raise it when `random_weights` changes, so that old records stand apart."""

_V3_ROPE = RopeConfig(
    rope_type="yarn", factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=1.0
)

_V3_LAYER = ModelConfig(
    model_type="deepseek_v3",
    vocab_size=1024,
    hidden_size=7168,
    intermediate_size=18432,
    num_hidden_layers=1,
    num_attention_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    max_position_embeddings=163840,
    rope=_V3_ROPE,
    mlp_layer_types=("dense",),
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
)
"""DeepSeek-V3 (arXiv 2412.19437, section 4.2): one dense layer, small vocabulary."""

_V32_LAYER = msgspec.structs.replace(
    _V3_LAYER, model_type="deepseek_v32", index_topk=2048, index_n_heads=64, index_head_dim=128
)
"""DeepSeek-V3.2-Exp (config_671B_v3.2.json)."""

_V32_ATTENTION = msgspec.structs.replace(_V32_LAYER, intermediate_size=64)
"""V3.2's layer with next to no network after it: what remains is attention."""

_V32_MOE_LAYER = msgspec.structs.replace(
    _V32_LAYER,
    mlp_layer_types=("sparse",),
    moe_intermediate_size=2048,
    n_routed_experts=16,
    n_shared_experts=1,
    num_experts_per_tok=8,
    n_group=4,
    topk_group=3,
)
"""A mixture-of-experts layer with 16 of the 256 routed experts: as many active per token, fewer to hold."""

_V2_LITE_LAYER = ModelConfig(
    model_type="deepseek_v2",
    vocab_size=1024,
    hidden_size=2048,
    intermediate_size=10944,
    num_hidden_layers=1,
    num_attention_heads=16,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    max_position_embeddings=163840,
    rope=msgspec.structs.replace(_V3_ROPE, mscale=0.707, mscale_all_dim=0.707),
    mlp_layer_types=("dense",),
)
"""DeepSeek-V2-Lite (arXiv 2405.04434, appendix B): no query latent."""

_TINY: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "max_position_embeddings": 4096,
    "mlp_layer_types": ("dense", "sparse"),
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
}
_TINY_V3 = _TINY | {
    "q_lora_rank": 48,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rope": msgspec.structs.replace(_V3_ROPE, original_max_position_embeddings=512, factor=8.0),
}
_TINY_DSA = _TINY_V3 | {"index_topk": 16, "index_n_heads": 16, "index_head_dim": 16}

PRESETS: dict[str, ModelConfig] = {
    "v3-layer": _V3_LAYER,
    "v32-layer": _V32_LAYER,
    "v32-attention": _V32_ATTENTION,
    "v32-moe-layer": _V32_MOE_LAYER,
    "v2-lite-layer": _V2_LITE_LAYER,
    "tiny-v2": ModelConfig("deepseek_v2", **_TINY, q_lora_rank=48, topk_method="group_limited_greedy"),
    "tiny-v2-lite": ModelConfig("deepseek_v2", **(_TINY | {"n_group": 1, "topk_group": 1})),
    "tiny-v3": ModelConfig("deepseek_v3", **_TINY_V3),
    "tiny-v32": ModelConfig("deepseek_v32", **_TINY_DSA),
    "tiny-v32-mtp": ModelConfig("deepseek_v32", **_TINY_DSA, num_nextn_predict_layers=1),
    "tiny-glm": ModelConfig("glm_moe_dsa", **_TINY_DSA, rms_norm_eps=1e-5, indexer_rope_interleave=True),
}
"""Preset name -> dimensions."""


def resolve(checkpoint: str, where: str | None = None) -> ModelConfig:
    """The config of a Hugging Face directory or of a preset.

    Raises UsageError when it is neither, naming the nearest preset, or when the directory's config is unusable.
    `where` says where the name was given, such as a line of a suite file.
    """
    if checkpoint in PRESETS:
        return PRESETS[checkpoint]
    path = Path(checkpoint)
    if path.is_dir():
        return ModelConfig.read(path)
    if path.is_file():
        raise UsageError(f"checkpoint {checkpoint!r} is a file; give the directory that it is in", where)
    near = difflib.get_close_matches(checkpoint, PRESETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(PRESETS)
    raise UsageError(f"checkpoint {checkpoint!r} is neither a directory nor a preset; {hint}presets: {names}", where)
