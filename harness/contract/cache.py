"""The cache axis: what is kept per token, in which layout, and how many bytes that is.

Attention produces logical fields per token: `latent` (C), `rope_key` (R, rotated, split layout) and whatever the
selector adds (`index_key`, I). A `CacheFormat` decides how they are stored: side by side, expanded to keys and
values of every head, or packed and quantised. Storage is preallocated, written in place and never regrown.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from harness.contract.config import ModelConfig
from harness.contract.operators import Operators
from harness.contract.span import Span
from harness.contract.synthetic import INDEX_KEY


@dataclass(frozen=True)
class CacheField:
    """One stored tensor of a layer: [B, S, width], or [B, heads, S, width] when every head has its own."""

    name: str
    width: int
    dtype: torch.dtype
    heads: int | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one sequence occupies in this field."""
        return self.width * (self.heads or 1) * self.dtype.itemsize

    def shape(self, batch: int, length: int) -> tuple[int, ...]:
        """Shape of the storage for `batch` sequences of at most `length` tokens."""
        return (batch, length, self.width) if self.heads is None else (batch, self.heads, length, self.width)


class Keys(ABC):
    """What attention reads: the keys of a layer, in whichever of two layouts a form needs.

    Results are views or new tensors with S = `end` rows, in the dtype of the rows that were written; rows at or
    beyond a sequence's own end hold anything.
    """

    @abstractmethod
    def latent_rows(self, end: int) -> Tensor:
        """[B, end, C + R]: latent, then rotated rope key. For the MQA form, and for expanding."""

    @abstractmethod
    def expanded(self, end: int) -> tuple[Tensor, Tensor] | None:
        """Keys [B, H, end, N + R] and values [B, H, end, V] when they are stored; None when they are not."""

    @abstractmethod
    def field(self, name: str, end: int) -> Tensor:
        """[B, end, width]: a field that the selector added, such as `index_key`."""

    def packed_rows(self, end: int) -> Tensor | None:
        """uint8 [B, end, P]: latent rows as `PackLatents` packs them, where they are stored so; else None.

        A form may read them through the slots of `Operators.fused` that take them, instead of `latent_rows`.
        """
        return None

    def index_scores(self, ops: Operators, q_BTGI: Tensor, weights_BTG: Tensor, span: Span) -> Tensor:
        """As `IndexScores`, over the stored index keys in whatever format they have."""
        return ops.index_scores(q_BTGI, weights_BTG, self.field(INDEX_KEY, span.end), span)


class NewKeys(Keys):
    """Keys of the tokens of one call, as computed: what is written to a cache, or attended to when there is none."""

    def __init__(self, latent_BTC: Tensor, rope_key_BTR: Tensor, key_up_HNC: Tensor, value_up_HVC: Tensor) -> None:
        self.rows_BTL = torch.cat([latent_BTC, rope_key_BTR], -1)
        self.key_up_HNC, self.value_up_HVC = key_up_HNC, value_up_HVC
        self.fields: dict[str, Tensor] = {}
        """The selector's fields, each [B, T, width]."""

    def latent_rows(self, end: int) -> Tensor:
        """The rows of this call."""
        return self.rows_BTL[:, :end]

    def expanded(self, end: int) -> None:
        """Nothing is stored expanded."""
        return

    def field(self, name: str, end: int) -> Tensor:
        """A field of this call."""
        return self.fields[name][:, :end]


def expand(rows_BSL: Tensor, key_up_HNC: Tensor, value_up_HVC: Tensor) -> tuple[Tensor, Tensor]:
    """Keys [B, H, S, N + R] and values [B, H, S, V] of latent rows (arXiv 2405.04434, equations 10 to 15).

    The heads are those of the two weights: a slice of them expands a group of heads.
    """
    heads, _, latent = key_up_HNC.shape
    latent_BSC, rope_BSR = rows_BSL[..., :latent], rows_BSL[..., latent:]
    key_BHSN = torch.einsum("bsc,hnc->bhsn", latent_BSC, key_up_HNC)
    value_BHSV = torch.einsum("bsc,hvc->bhsv", latent_BSC, value_up_HVC)
    return torch.cat([key_BHSN, rope_BSR[:, None].expand(-1, heads, -1, -1)], -1), value_BHSV


class LayerCache(Keys):
    """The storage of one layer. Formats subclass it to say how logical fields are stored and read back."""

    def __init__(self, stored: Sequence[CacheField], batch: int, max_len: int, device: str) -> None:
        # Zeros, not empty memory: a row that was never written must not be able to carry a NaN into a product.
        self.storage = {
            stored_field.name: torch.zeros(stored_field.shape(batch, max_len), dtype=stored_field.dtype, device=device)
            for stored_field in stored
        }

    @property
    def bytes(self) -> int:
        """Bytes allocated."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.storage.values())

    @abstractmethod
    def write(self, new: NewKeys, span: Span) -> None:
        """Store the tokens of a call at their positions; padded columns are not written."""

    def put(self, name: str, values: Tensor, span: Span) -> None:
        """Copy values [..., T, width] into a stored field at the positions of `span`; the batch may broadcast."""
        target = self.storage[name]
        for group, part in span.sequences():
            start, end = part.starts[0], part.ends[0]
            source = values if values.shape[0] == 1 else values[group]
            target[group, ..., start:end, :] = source[..., : end - start, :].to(target.dtype)

    def view(self, name: str, end: int) -> Tensor:
        """The first `end` rows of a stored field, without a copy."""
        return self.storage[name][..., :end, :]


class CacheFormat(ABC):
    """One option of the cache axis."""

    name: str

    @abstractmethod
    def stored(self, config: ModelConfig, dtype: torch.dtype, added: Mapping[str, int]) -> Sequence[CacheField]:
        """The stored fields of one layer. `dtype` is the precision's; `added` the selector's fields and widths."""

    @abstractmethod
    def new_layer(
        self, stored: Sequence[CacheField], batch: int, max_len: int, device: str, ops: Operators
    ) -> LayerCache:
        """Empty storage for one layer; formats that convert what they store do it through `ops`."""

    def slots(self, added: Mapping[str, int]) -> Collection[str]:
        """FP8 slots that are called for it, those of the attention over it included (see `Operators.resolved`)."""
        return ()

    def is_lossy(self, config: ModelConfig, dtype: torch.dtype) -> bool:
        """Whether rows of `dtype` come back rounded: some stored field has another dtype."""
        return any(stored_field.dtype != dtype for stored_field in self.stored(config, dtype, {}))

    def bytes_per_token(self, config: ModelConfig, dtype: torch.dtype, added: Mapping[str, int]) -> int:
        """Bytes that one token of one sequence occupies in one layer."""
        return sum(stored_field.bytes_per_token for stored_field in self.stored(config, dtype, added))


def storage_bytes(stored: Sequence[CacheField], batch: int, max_len: int) -> int:
    """Bytes of one layer's storage, known before anything is allocated."""
    return sum(prod(each.shape(batch, max_len)) * each.dtype.itemsize for each in stored)
