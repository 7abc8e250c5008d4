"""Names and shapes of every tensor of a model, computed from its config. Torch-free.

Two spellings exist: on disk every routed expert has its own tensors; in memory (here as in transformers) the experts
of a layer are stacked for grouped products. All other names are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.contract.config import ModelConfig

Shape = tuple[int, ...]

MTP_COPIES = ("embed_tokens.weight", "shared_head.head.weight")
"""What the released checkpoints store once more in a prediction layer, though it is the main model's."""


def disk_shapes(config: ModelConfig, mtp: bool = False) -> dict[str, Shape]:
    """Every tensor of a Hugging Face directory, name to shape; `lm_head.weight` only when it is not tied.

    Those of multi-token-prediction layers only with `mtp`.
    """
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, config.hidden_size)}
    for layer in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer(config, layer)}
    for layer in config.mtp_numbers() if mtp else ():
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _mtp_layer(config, layer)}
    shapes["model.norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def stacks(config: ModelConfig, mtp: bool = False) -> dict[str, list[list[str]]]:
    """In-memory name of every stacked tensor -> for each expert, the tensors on disk that are joined by rows.

    Those of multi-token-prediction layers only with `mtp`.
    """
    result = {}
    for layer in (*range(config.num_hidden_layers), *(config.mtp_numbers() if mtp else ())):
        if config.mlp_type(layer) == "sparse":
            prefix = f"model.layers.{layer}.mlp.experts"
            experts = range(config.n_routed_experts)
            result[f"{prefix}.gate_up_proj"] = [
                [f"{prefix}.{e}.gate_proj.weight", f"{prefix}.{e}.up_proj.weight"] for e in experts
            ]
            result[f"{prefix}.down_proj"] = [[f"{prefix}.{e}.down_proj.weight"] for e in experts]
    return result


def ignored(name: str, config: ModelConfig, mtp: bool = False) -> bool:
    """True for tensors that a checkpoint may have and the model does not use.

    Layers beyond the last one (with `mtp` beyond the last prediction layer), a prediction layer's copies of embedding
    and head, a tied head that is stored all the same, and the rotary frequencies that old checkpoints carry.
    """
    layer = re.match(r"model\.layers\.(\d+)\.(.*)", name)
    beyond = layer is not None and int(layer[1]) >= (config.mtp_numbers().stop if mtp else config.num_hidden_layers)
    copied = layer is not None and int(layer[1]) in config.mtp_numbers() and layer[2] in MTP_COPIES
    return (
        beyond
        or copied
        or (config.tie_word_embeddings and name == "lm_head.weight")
        or name.endswith("rotary_emb.inv_freq")
    )


def _mtp_layer(config: ModelConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    hidden = config.hidden_size
    yield from (("enorm.weight", (hidden,)), ("hnorm.weight", (hidden,)), ("eh_proj.weight", (hidden, 2 * hidden)))
    yield from _layer(config, layer)
    yield "shared_head.norm.weight", (hidden,)


def _layer(config: ModelConfig, layer: int) -> Iterator[tuple[str, Shape]]:
    yield "input_layernorm.weight", (config.hidden_size,)
    yield from ((f"self_attn.{name}", shape) for name, shape in _attention(config))
    yield "post_attention_layernorm.weight", (config.hidden_size,)
    if config.mlp_type(layer) == "sparse":
        yield from ((f"mlp.{name}", shape) for name, shape in _experts(config))
    else:
        yield from _mlp("mlp", config.hidden_size, config.intermediate_size)


def _attention(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    queries = heads * config.qk_head_dim
    if config.q_lora_rank is None:
        yield "q_proj.weight", (queries, hidden)
    else:
        yield from _linear("q_a_proj", config.q_lora_rank, hidden, config.attention_bias)
        yield "q_a_layernorm.weight", (config.q_lora_rank,)
        yield "q_b_proj.weight", (queries, config.q_lora_rank)
    yield from _linear("kv_a_proj_with_mqa", latent + config.qk_rope_head_dim, hidden, config.attention_bias)
    yield "kv_a_layernorm.weight", (latent,)
    yield "kv_b_proj.weight", (heads * (config.qk_nope_head_dim + config.v_head_dim), latent)
    yield from _linear("o_proj", hidden, heads * config.v_head_dim, config.attention_bias)
    if config.has_indexer:
        yield from ((f"indexer.{name}", shape) for name, shape in _indexer(config))


def _indexer(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    yield "wq_b.weight", (config.index_n_heads * config.index_head_dim, config.q_lora_rank or config.hidden_size)
    yield "wk.weight", (config.index_head_dim, config.hidden_size)
    yield "k_norm.weight", (config.index_head_dim,)
    yield "k_norm.bias", (config.index_head_dim,)
    yield "weights_proj.weight", (config.index_n_heads, config.hidden_size)


def _experts(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    yield "gate.weight", (config.n_routed_experts, config.hidden_size)
    if config.topk_method == "noaux_tc":
        yield "gate.e_score_correction_bias", (config.n_routed_experts,)
    for expert in range(config.n_routed_experts):
        yield from _mlp(f"experts.{expert}", config.hidden_size, config.moe_intermediate_size)
    if config.n_shared_experts:
        yield from _mlp("shared_experts", config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)


def _mlp(prefix: str, hidden: int, intermediate: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (intermediate, hidden)
    yield f"{prefix}.up_proj.weight", (intermediate, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, intermediate)


def _linear(name: str, rows: int, columns: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)
