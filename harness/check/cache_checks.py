"""Checks of a cache format by itself: what is written is read back, and takes the bytes that were declared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.check.operator_calls import Draw
from harness.check.tolerances import CACHES, Tolerance
from harness.check.verdict import require, require_close
from harness.contract.cache import CacheFormat, LayerCache, NewKeys, expand, storage_bytes
from harness.contract.config import ModelConfig
from harness.contract.operators import reference_operators
from harness.contract.precision import Precision
from harness.contract.span import Span

ADDED = {"index_key": 16}
"""A field as a selector adds it."""

BATCH, LENGTH = 2, 12


@dataclass(frozen=True)
class Content:
    """What stands at every position: latent rows and the selector's field."""

    rows_BSL: Tensor
    field_BSW: Tensor

    def at(self, starts: list[int], width: int) -> Content:
        """The columns of a call that starts at `starts`; beyond the end the last one is repeated, as padding."""
        columns_BT = (torch.tensor(starts)[:, None] + torch.arange(width)).clamp(max=LENGTH - 1)

        def taken(values_BSW: Tensor) -> Tensor:
            index_BTW = columns_BT[..., None].expand(-1, -1, values_BSW.shape[-1]).to(values_BSW.device)
            return values_BSW.gather(1, index_BTW)

        return Content(taken(self.rows_BSL), taken(self.field_BSW))

    def until(self, ends: list[int], rest: Content) -> Content:
        """This content before `ends`, another one behind."""
        mine_BS = (torch.arange(LENGTH) < torch.tensor(ends)[:, None])[..., None].to(self.rows_BSL.device)
        return Content(
            torch.where(mine_BS, self.rows_BSL, rest.rows_BSL), torch.where(mine_BS, self.field_BSW, rest.field_BSW)
        )


@dataclass(frozen=True)
class Bench:
    """A layer of the format under check and the weights that expand its rows."""

    layer: LayerCache
    key_up_HNC: Tensor
    value_up_HVC: Tensor
    allowed: Tolerance

    def write(self, content: Content, starts: list[int], ends: list[int]) -> None:
        """Write the rows from start to end of each sequence; the shorter ones are padded."""
        width = max(end - start for start, end in zip(starts, ends, strict=True))
        part, latent = content.at(starts, width), self.key_up_HNC.shape[-1]
        rows_BTL = part.rows_BSL
        new = NewKeys(rows_BTL[..., :latent], rows_BTL[..., latent:], self.key_up_HNC, self.value_up_HVC)
        new.fields.update(dict.fromkeys(ADDED, part.field_BSW))
        self.layer.write(new, Span(tuple(starts), tuple(ends), width))

    def require(self, content: Content, when: str) -> None:
        """The layer gives this content back, as latent rows or expanded."""
        expanded = self.layer.expanded(LENGTH)
        if expanded is None:
            self._close(self.layer.latent_rows(LENGTH), content.rows_BSL, f"latent rows {when}")
        else:
            wanted = expand(content.rows_BSL, self.key_up_HNC, self.value_up_HVC)
            self._close(expanded[0], wanted[0], f"expanded keys {when}")
            self._close(expanded[1], wanted[1], f"expanded values {when}")
        for name in ADDED:
            self._close(self.layer.field(name, LENGTH), content.field_BSW, f"field {name} {when}")

    def _close(self, given: Tensor, wanted: Tensor, what: str) -> None:
        require(given.dtype == wanted.dtype, f"{what}: read back in {given.dtype}, written in {wanted.dtype}")
        require_close(given.float(), wanted.float(), self.allowed, what)


def reads_back_what_was_written(cache: CacheFormat, config: ModelConfig, precision: Precision, device: str) -> None:
    """A layer gives back what was written last at each position; padding is not written."""
    draw = Draw(seed=5)

    def normal(*shape: int) -> Tensor:
        return draw.normal(*shape).to(device, precision.dtype)

    def content() -> Content:
        row = config.kv_lora_rank + config.qk_rope_head_dim
        return Content(normal(BATCH, LENGTH, row), normal(BATCH, LENGTH, ADDED["index_key"]))

    stored = cache.stored(config, precision.dtype, ADDED)
    heads, latent = config.num_attention_heads, config.kv_lora_rank
    bench = Bench(
        cache.new_layer(stored, BATCH, LENGTH, device, reference_operators()),
        normal(heads, config.qk_nope_head_dim, latent),
        normal(heads, config.v_head_dim, latent),
        CACHES["lossy" if cache.is_lossy(config, precision.dtype) else precision.name],
    )
    old, new = content(), content()
    bench.write(old, [0, 0], [LENGTH, LENGTH])
    bench.require(old, "after the first write")
    bench.write(new, [0, 0], [7, 3])
    bench.require(new.until([7, 3], rest=old), "after 7 and 3 of them were written anew")
    bench.write(new, [7, 3], [LENGTH, LENGTH])
    bench.require(new, "after all were written anew")


def layer_bytes_are_declared(cache: CacheFormat, config: ModelConfig, precision: Precision, device: str) -> None:
    """A layer takes bytes_per_token for each of its rows, as known before anything is allocated."""
    stored = cache.stored(config, precision.dtype, ADDED)
    layer = cache.new_layer(stored, 3, 8, device, reference_operators())
    declared = cache.bytes_per_token(config, precision.dtype, ADDED) * 3 * 8
    require(layer.bytes == declared, f"3 x 8 rows take {layer.bytes} bytes, declared {declared}")
    known = storage_bytes(stored, 3, 8)
    require(layer.bytes == known, f"3 x 8 rows take {layer.bytes} bytes, their fields {known}")
