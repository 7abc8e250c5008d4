"""The outside peer: the same checkpoint through Hugging Face `transformers`, in the same tables.

transformers caches latents but expands all of them to keys and values of every head on every call (the MHA
form), so that is the only form offered here. Registration is torch-free; the runner is in `hf_runner.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.contract import ModelConfig, Option, Query, hookimpl

TAKES = {
    "form": ("mha", "transformers expands the latents to keys and values of every head; it has no absorbed form"),
    "selector": ("dense, dsa", "transformers has no other choice of keys"),
    "precision": ("fp32, bf16", "transformers' grouped expert products take no other number format on every device"),
    "cache": ("latent", "transformers caches the latents of these models and nothing else"),
    "kernels": ("sdpa, hf-eager", "transformers brings its own operators"),
}
"""Axis -> the options that the engine takes, and why no other."""


@hookimpl
def harness_options() -> Sequence[Option]:
    """The engine `hf` and the two attention implementations of transformers that run on every device."""
    return [
        Option(
            axis="engine",
            name="hf",
            factory="harness_plugins.hf_runner:build",
            summary="the same checkpoint through Hugging Face transformers",
            unsupported=_engine_unsupported,
            defaults={
                "form": "mha",
                "selector": "dense",
                "precision": "fp32",
                "cache": "latent",
                "kernels": "sdpa",
                "decoding": "plain",
            },
        ),
        Option(
            axis="kernels",
            name="sdpa",
            factory=lambda: "sdpa",
            summary="transformers with torch's scaled_dot_product_attention",
            unsupported=_kernels_unsupported,
        ),
        Option(
            axis="kernels",
            name="hf-eager",
            factory=lambda: "eager",
            summary="transformers with its plain attention: matmul, softmax, matmul",
            unsupported=_kernels_unsupported,
        ),
    ]


def _kernels_unsupported(query: Query) -> Sequence[str]:
    engine, kernels = query.variant.engine, query.variant.kernels
    return () if engine == "hf" else [f"kernels {kernels} are those of transformers: engine must be hf, not {engine}"]


def _engine_unsupported(query: Query) -> Sequence[str]:
    reasons = [
        f"hf takes {axis} {allowed}, not {given}: {why}"
        for axis, (allowed, why) in TAKES.items()
        if (given := getattr(query.variant, axis)) not in allowed.split(", ")
    ]
    if query.variant.selector == "dsa":
        return reasons + _sparse_unsupported(query.config)
    return reasons + _dense_unsupported(query.config)


def _sparse_unsupported(config: ModelConfig) -> list[str]:
    """Why DeepseekV32ForCausalLM or GlmMoeDsaForCausalLM cannot hold this model."""
    if not config.has_indexer:
        return [f"selector dsa needs a checkpoint with an indexer; this {config.model_type} has none (index_topk is 0)"]
    reasons = []
    if config.q_lora_rank is None:
        reasons.append("transformers' indexer needs a query latent; q_lora_rank is null")
    if not config.rope_interleave:
        reasons.append("transformers rotates interleaved pairs in this model; rope_interleave is false")
    interleaved = config.model_type == "glm_moe_dsa"
    if config.indexer_rope_interleave != interleaved:
        reasons.append(
            f"transformers' {config.model_type} has indexer_rope_interleave {str(interleaved).lower()}, "
            f"this model {str(config.indexer_rope_interleave).lower()}"
        )
    return reasons + _layers_unsupported(config, any_order=True)


def _dense_unsupported(config: ModelConfig) -> list[str]:
    """Why DeepseekV2ForCausalLM or DeepseekV3ForCausalLM cannot hold this model."""
    reasons = []
    if config.model_type == "deepseek_v2" and not config.rope_interleave:
        reasons.append("transformers' deepseek_v2 rotates interleaved pairs; rope_interleave is false")
    if config.model_type == "deepseek_v2" and config.hidden_size % config.num_attention_heads:
        reasons.append(
            f"transformers' deepseek_v2 wants hidden_size {config.hidden_size} to be a multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )
    return reasons + _layers_unsupported(config, any_order=False)


def _layers_unsupported(config: ModelConfig, any_order: bool) -> list[str]:
    reasons = []
    kinds = list(config.mlp_layer_types)
    if not any_order and kinds != sorted(kinds):
        reasons.append("transformers' dense-attention models put every dense layer before the first expert layer")
    if "sparse" in kinds and config.n_shared_experts == 0:
        reasons.append("transformers' expert layers always have shared experts; n_shared_experts is 0")
    return reasons
