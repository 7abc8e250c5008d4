"""Multi-head latent attention, written once; form, selector, cache, precision and kernels are chosen outside.

DeepSeek-V2, arXiv 2405.04434, section 2.1; with an indexer DeepSeek-V3.2-Exp. The steps are separate methods, so
that training code can take a layer apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from harness.contract.attention import AttentionCall, SelectorSource
from harness.contract.cache import Keys, LayerCache, NewKeys
from harness.contract.config import ModelConfig
from harness.contract.span import Span
from harness.model.indexer import Indexer
from harness.model.layers import Parts, RmsNorm

LATENT_NORM_EPS = 1e-6
"""transformers builds q_a_layernorm and kv_a_layernorm without an eps, so they keep the class default of 1e-6
whatever rms_norm_eps says (modeling_deepseek_v3.py, DeepseekV3Attention.__init__; GLM has 1e-5 elsewhere)."""


@dataclass(frozen=True)
class Positions:
    """Where the tokens of a call stand, and the rotary tables of those places; shared by all layers."""

    span: Span
    cos_BTr: Tensor
    sin_BTr: Tensor


@dataclass(frozen=True)
class Projected:
    """T tokens of a layer, projected: queries, their keys, and what a selector computes from."""

    q_nope_BTHN: Tensor
    q_rope_BTHR: Tensor
    new_keys: NewKeys
    source: SelectorSource


class Attention(nn.Module):
    """One layer's attention."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.config, self.parts = config, parts
        linear, hidden, heads = parts.linear, config.hidden_size, config.num_attention_heads
        queries = heads * config.qk_head_dim
        if config.q_lora_rank is None:
            self.q_proj = linear(hidden, queries)
        else:
            self.q_a_proj = linear(hidden, config.q_lora_rank, config.attention_bias)
            self.q_a_layernorm = RmsNorm(config.q_lora_rank, LATENT_NORM_EPS, parts)
            self.q_b_proj = linear(config.q_lora_rank, queries)
        row = config.kv_lora_rank + config.qk_rope_head_dim
        self.kv_a_proj_with_mqa = linear(hidden, row, config.attention_bias)
        self.kv_a_layernorm = RmsNorm(config.kv_lora_rank, LATENT_NORM_EPS, parts)
        self.kv_b_proj = linear(config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = linear(heads * config.v_head_dim, hidden, config.attention_bias)
        self.indexer = Indexer(config, parts) if config.has_indexer else None

    def forward(self, hidden_BTD: Tensor, positions: Positions, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D], normed -> [B, T, D]. With a cache the tokens are appended to it and see what it holds."""
        return self.attend(self.project(hidden_BTD, positions), cache)

    def project(self, hidden_BTD: Tensor, positions: Positions) -> Projected:
        """Queries and keys of the tokens, rotated."""
        q_latent_BTP = self.query_latent(hidden_BTD)
        q_nope_BTHN, q_rope_BTHR = self.queries(hidden_BTD if q_latent_BTP is None else q_latent_BTP, positions)
        source = SelectorSource(
            hidden_BTD=hidden_BTD,
            q_latent_BTP=q_latent_BTP,
            cos_BTr=positions.cos_BTr,
            sin_BTr=positions.sin_BTr,
            span=positions.span,
            indexer=self.indexer,
            config=self.config,
            ops=self.parts.ops,
        )
        new_keys = self.latents(hidden_BTD, positions)
        new_keys.fields.update(self.parts.selector.new_fields(source))
        return Projected(q_nope_BTHN, q_rope_BTHR, new_keys, source)

    def query_latent(self, hidden_BTD: Tensor) -> Tensor | None:
        """The normed query latent [B, T, q_lora_rank]; None in models without q_lora."""
        return None if self.config.q_lora_rank is None else self.q_a_layernorm(self.q_a_proj(hidden_BTD))

    def queries(self, source_BTP: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """Nope part [B, T, H, N] and rotated part [B, T, H, R] of every head's query."""
        project = self.q_proj if self.config.q_lora_rank is None else self.q_b_proj
        q_BTHQ = project(source_BTP).unflatten(-1, (self.config.num_attention_heads, -1))
        q_nope_BTHN, q_rope_BTHR = q_BTHQ.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], -1)
        cos, sin = positions.cos_BTr[:, :, None], positions.sin_BTr[:, :, None]
        return q_nope_BTHN, self.parts.ops.rotary(q_rope_BTHR, cos, sin, self.config.rope_interleave)

    def latents(self, hidden_BTD: Tensor, positions: Positions) -> NewKeys:
        """Normed latent and rotated shared key of every token."""
        row_BTL = self.kv_a_proj_with_mqa(hidden_BTD)
        latent_BTC, rope_BTR = row_BTL.split([self.config.kv_lora_rank, self.config.qk_rope_head_dim], -1)
        rope_BTR = self.parts.ops.rotary(rope_BTR, positions.cos_BTr, positions.sin_BTr, self.config.rope_interleave)
        return NewKeys(self.kv_a_layernorm(latent_BTC), rope_BTR, *self.up_weights())

    def up_weights(self) -> tuple[Tensor, Tensor]:
        """The two halves of kv_b_proj, views: [H, N, C] makes keys of latents, [H, V, C] values."""
        weight = self.parts.precision.dense_weight(self.kv_b_proj)
        weight_HXC = weight.unflatten(0, (self.config.num_attention_heads, -1))
        return weight_HXC[:, : self.config.qk_nope_head_dim], weight_HXC[:, self.config.qk_nope_head_dim :]

    def attend(self, projected: Projected, cache: LayerCache | None = None) -> Tensor:
        """[B, T, D]: store the projected tokens, attend, and project the result back."""
        keys = self.store(projected, cache)
        return self.output(self.parts.form.attend(self.call(projected, keys)))

    def store(self, projected: Projected, cache: LayerCache | None) -> Keys:
        """Append the tokens to the cache and return what attention reads; without a cache the tokens themselves."""
        if cache is None:
            return projected.new_keys
        cache.write(projected.new_keys, projected.source.span)
        return cache

    def call(self, projected: Projected, keys: Keys) -> AttentionCall:
        """The question put to the form."""
        source, selector = projected.source, self.parts.selector

        def select(columns: slice, span: Span) -> Tensor | None:
            selected_BTK = selector.select(source.columns(columns, span), keys)
            if selected_BTK is None or span.uniform:
                return selected_BTK
            return selected_BTK.clamp(max=span.end - 1)  # queries in padded columns stand beyond the keys

        key_up_HNC, value_up_HVC = self.up_weights()
        return AttentionCall(
            q_nope_BTHN=projected.q_nope_BTHN,
            q_rope_BTHR=projected.q_rope_BTHR,
            keys=keys,
            span=source.span,
            key_up_HNC=key_up_HNC,
            value_up_HVC=value_up_HVC,
            scale=self.config.softmax_scale,
            select=select,
            keys_per_query=selector.keys_per_query(self.config),
            ops=self.parts.ops,
        )

    def output(self, heads_BTHV: Tensor) -> Tensor:
        """[B, T, H, V] -> [B, T, D]."""
        return self.o_proj(heads_BTHV.flatten(2))
