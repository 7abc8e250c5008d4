"""The form and selector axes: the algebra of attention, and which keys a query attends to.

Attention of one layer is: project to queries and latents (the model), store them (the cache), choose keys (the
selector), attend (the form, through the operators), project the result back (the model). Forms and selectors see
plain tensors and the contract only, so a plugin can bring its own without touching the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from harness.contract.cache import Keys
from harness.contract.config import ModelConfig
from harness.contract.operators import Operators
from harness.contract.span import Span


class LightningIndexer(Protocol):
    """The learned indexer that a DSA checkpoint brings (DeepSeek-V3.2-Exp report, section 2.1)."""

    def queries(self, source: SelectorSource) -> Tensor:
        """[B, T, G, I], rotated part first."""

    def keys(self, source: SelectorSource) -> Tensor:
        """[B, T, I], one key for all index heads, after norm and rotation."""

    def head_weights(self, source: SelectorSource) -> Tensor:
        """FP32 [B, T, G], the scale factors G^-0.5 and I^-0.5 included."""


@dataclass(frozen=True)
class SelectorSource:
    """What a selector may compute from: T tokens of one layer's input."""

    hidden_BTD: Tensor
    """The normed input of the attention layer."""
    q_latent_BTP: Tensor | None
    """The normed query latent (P = q_lora_rank); None in models without q_lora."""
    cos_BTr: Tensor
    sin_BTr: Tensor
    """Rotary tables of the tokens' positions, r = qk_rope_head_dim / 2."""
    span: Span
    indexer: LightningIndexer | None
    """None when the checkpoint has none."""
    config: ModelConfig
    ops: Operators

    def columns(self, columns: slice, span: Span) -> SelectorSource:
        """The same for a chunk of the tokens."""
        q_latent_BTP = None if self.q_latent_BTP is None else self.q_latent_BTP[:, columns]
        return replace(
            self,
            hidden_BTD=self.hidden_BTD[:, columns],
            q_latent_BTP=q_latent_BTP,
            cos_BTr=self.cos_BTr[:, columns],
            sin_BTr=self.sin_BTr[:, columns],
            span=span,
        )


class Selector(ABC):
    """One option of the selector axis."""

    name: str

    def cache_fields(self, config: ModelConfig) -> Mapping[str, int]:
        """Fields that this selector keeps per token, name to width; none unless it says so."""
        return {}

    def new_fields(self, source: SelectorSource) -> Mapping[str, Tensor]:
        """The values [B, T, width] of those fields for the tokens of a call."""
        return {}

    def keys_per_query(self, config: ModelConfig) -> int | None:
        """At most how many keys a query attends to; None for all. For memory and FLOP estimates."""
        return None

    @abstractmethod
    def select(self, source: SelectorSource, keys: Keys) -> Tensor | None:
        """Key positions for a chunk of queries: int64 [B, T, K], -1 for none; None means every visible key.

        Every query must get at least one key, and none that it does not see (see `Span`); what queries in padded
        columns get is ignored.
        """


@dataclass(frozen=True)
class AttentionCall:
    """Everything that a form needs to attend, for T queries of one layer."""

    q_nope_BTHN: Tensor
    q_rope_BTHR: Tensor
    """Rotated, split layout."""
    keys: Keys
    span: Span
    key_up_HNC: Tensor
    value_up_HVC: Tensor
    """The two halves of kv_b_proj: what turns a latent into a head's key and value."""
    scale: float
    select: Callable[[slice, Span], Tensor | None]
    """The selector's choice for a chunk of the queries: positions int64 [B, t, K], or None for all."""
    keys_per_query: int | None
    """As `Selector.keys_per_query`."""
    ops: Operators

    @property
    def absorbed_width(self) -> int:
        """L = C + R, the width of a query in the MQA form."""
        return self.key_up_HNC.shape[-1] + self.q_rope_BTHR.shape[-1]


class Form(ABC):
    """One option of the form axis: how latents, queries and the two halves of kv_b_proj are multiplied."""

    name: str

    @abstractmethod
    def attend(self, call: AttentionCall) -> Tensor:
        """-> [B, T, H, V], the heads' outputs before o_proj."""
