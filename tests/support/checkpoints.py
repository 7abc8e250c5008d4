"""Random tiny Hugging Face checkpoints, written by transformers itself, for every test that needs one.

`save_checkpoint(tmp_path / "v3", "deepseek_v3", seed=1, num_hidden_layers=3)` writes a directory that
`AutoModelForCausalLM` and `harness.load_runner` both open. The weights are larger than a fresh model's, so that
attention, routing and index scores are far from uniform and a mistake shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

MODEL_TYPES = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa")

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
"""Rope parameters for a tiny YaRN model: pass as `rope_parameters=YARN`."""

_SHARED = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_DSA = {"index_topk": 8, "index_n_heads": 16, "index_head_dim": 16}
_OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"topk_method": "group_limited_greedy"},
    "deepseek_v3": {},
    "deepseek_v32": _DSA,
    "glm_moe_dsa": _DSA,
}


def tiny_config(model_type: str, **overrides: Any) -> Any:
    """A transformers config of `model_type` with tiny dimensions; `overrides` are config fields."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **(_SHARED | _OWN[model_type] | overrides))


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> Any:
    """A transformers model in FP32, evaluation mode, with seeded random weights (norms and biases included)."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **overrides), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            tensor.copy_(_random(name, tensor, generator))
    return model


def save_checkpoint(directory: Path, model_type: str, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny random checkpoint as transformers does and return its directory.

    `max_shard_size="20KB"` among the overrides writes many shards and an index.
    """
    shard = {"max_shard_size": overrides.pop("max_shard_size")} if "max_shard_size" in overrides else {}
    tiny_model(model_type, seed, **overrides).save_pretrained(directory, **shard)
    return directory


def random_tokens(batch: int, length: int, seed: int = 0, vocab_size: int = 131) -> torch.Tensor:
    """Seeded token ids, int64 [batch, length]."""
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def _random(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("bias"):
        return 0.1 * noise
    if tensor.ndim == 1:
        return 1 + 0.1 * noise
    if "embed_tokens" in name:
        return noise
    return 1.5 * noise * tensor.shape[-1] ** -0.5
