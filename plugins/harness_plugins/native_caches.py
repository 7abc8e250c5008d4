"""The caches `latent` (what MLA keeps) and `expanded` (keys and values of every head: the price that MLA avoids)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.contract.cache import CacheField, CacheFormat, LayerCache, NewKeys, expand
from harness.contract.config import ModelConfig
from harness.contract.operators import Operators
from harness.contract.span import Span

LATENT_ROW, KEY, VALUE = "latent_row", "key", "value"


def _added(added: Mapping[str, int], dtype: torch.dtype) -> list[CacheField]:
    return [CacheField(name, width, dtype) for name, width in added.items()]


class Latent(CacheFormat):
    """Latent and rotary key side by side in one row, so that one matrix product scores both."""

    name = "latent"

    def stored(self, config: ModelConfig, dtype: torch.dtype, added: Mapping[str, int]) -> Sequence[CacheField]:
        """kv_lora_rank + qk_rope_head_dim values per token, and the selector's fields."""
        return [CacheField(LATENT_ROW, config.kv_lora_rank + config.qk_rope_head_dim, dtype), *_added(added, dtype)]

    def new_layer(
        self, stored: Sequence[CacheField], batch: int, max_len: int, device: str, ops: Operators
    ) -> LayerCache:
        """See `CacheFormat.new_layer`."""
        return LatentLayer(stored, batch, max_len, device)


class LatentLayer(LayerCache):
    """One layer of cache `latent`."""

    def write(self, new: NewKeys, span: Span) -> None:
        """See `LayerCache.write`."""
        self.put(LATENT_ROW, new.rows_BTL, span)
        for name, values_BTW in new.fields.items():
            self.put(name, values_BTW, span)

    def latent_rows(self, end: int) -> Tensor:
        """A view."""
        return self.view(LATENT_ROW, end)

    def expanded(self, end: int) -> None:
        """Not stored."""
        return

    def field(self, name: str, end: int) -> Tensor:
        """A view."""
        return self.view(name, end)


class Expanded(CacheFormat):
    """Keys and values of every head, head by head, so that a head reads its own rows in one run."""

    name = "expanded"

    def stored(self, config: ModelConfig, dtype: torch.dtype, added: Mapping[str, int]) -> Sequence[CacheField]:
        """num_attention_heads * (qk_head_dim + v_head_dim) values per token, and the selector's fields."""
        heads = config.num_attention_heads
        key = CacheField(KEY, config.qk_head_dim, dtype, heads)
        return [key, CacheField(VALUE, config.v_head_dim, dtype, heads), *_added(added, dtype)]

    def new_layer(
        self, stored: Sequence[CacheField], batch: int, max_len: int, device: str, ops: Operators
    ) -> LayerCache:
        """See `CacheFormat.new_layer`."""
        return ExpandedLayer(stored, batch, max_len, device)


class ExpandedLayer(LayerCache):
    """One layer of cache `expanded`."""

    def write(self, new: NewKeys, span: Span) -> None:
        """See `LayerCache.write`; expands the new tokens once."""
        k_BHTQ, v_BHTV = expand(new.rows_BTL, new.key_up_HNC, new.value_up_HVC)
        self.put(KEY, k_BHTQ, span)
        self.put(VALUE, v_BHTV, span)
        for name, values_BTW in new.fields.items():
            self.put(name, values_BTW, span)

    def latent_rows(self, end: int) -> Tensor:
        """Gone: the expanded cache does not keep latents."""
        raise NotImplementedError("cache expanded keeps no latents; only form mha can read it")

    def expanded(self, end: int) -> tuple[Tensor, Tensor]:
        """Views."""
        return self.view(KEY, end), self.view(VALUE, end)

    def field(self, name: str, end: int) -> Tensor:
        """A view."""
        return self.view(name, end)


LATENT, EXPANDED = Latent(), Expanded()
