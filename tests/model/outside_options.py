"""A plugin as an outsider would write it: a sliding-window selector and a cache that packs its rows to bytes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness.contract import ModelConfig, Option, hookimpl
from harness.contract.attention import Selector, SelectorSource
from harness.contract.cache import CacheField, CacheFormat, Keys, LayerCache, NewKeys
from harness.contract.operators import Operators
from harness.contract.span import Span

WINDOW = 8


class Sliding(Selector):
    """Every query sees itself and the WINDOW - 1 keys before it."""

    name = "sliding"

    def keys_per_query(self, config: ModelConfig) -> int | None:
        """WINDOW."""
        return WINDOW

    def select(self, source: SelectorSource, keys: Keys) -> Tensor:
        """The last positions, -1 before the first token."""
        positions_BT = source.span.positions(source.hidden_BTD.device)
        window_K = torch.arange(WINDOW, device=positions_BT.device)
        return (positions_BT[..., None] - window_K.flip(0)).clamp(min=-1)


class Packed(CacheFormat):
    """Latent and rotary key as BF16 bytes, in the way that an FP8 cache packs numbers of unlike width."""

    name = "packed"

    def stored(self, config: ModelConfig, dtype: torch.dtype, added: Mapping[str, int]) -> Sequence[CacheField]:
        """One field of bytes, and the selector's."""
        width = 2 * (config.kv_lora_rank + config.qk_rope_head_dim)
        selectors = [CacheField(name, 2 * values, torch.uint8) for name, values in added.items()]
        return [CacheField("row", width, torch.uint8), *selectors]

    def new_layer(
        self, stored: Sequence[CacheField], batch: int, max_len: int, device: str, ops: Operators
    ) -> LayerCache:
        """See `CacheFormat.new_layer`."""
        return PackedLayer(stored, batch, max_len, device)


class PackedLayer(LayerCache):
    """Packs when written, unpacks when read."""

    def write(self, new: NewKeys, span: Span) -> None:
        """See `LayerCache.write`."""
        self.dtype = new.rows_BTL.dtype
        for name, values in {"row": new.rows_BTL, **new.fields}.items():
            self.put(name, values.to(torch.bfloat16).contiguous().view(torch.uint8), span)

    def field(self, name: str, end: int) -> Tensor:
        """Unpacked to the dtype that was written."""
        return self.view(name, end).contiguous().view(torch.bfloat16).to(self.dtype)

    def latent_rows(self, end: int) -> Tensor:
        """Unpacked to the dtype that was written."""
        return self.field("row", end)

    def expanded(self, end: int) -> None:
        """Not stored."""
        return


@hookimpl
def harness_options() -> Sequence[Option]:
    """One option on each of two axes."""
    return [
        Option("selector", "sliding", Sliding, f"the last {WINDOW} keys"),
        Option("cache", "packed", Packed, "BF16 rows as bytes"),
    ]
