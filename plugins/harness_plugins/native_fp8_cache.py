"""The cache `fp8`: packed latent rows and index keys, in the byte layout of DeepSeek's kernels.

656 bytes a token and layer at V3's shape instead of 1,152 in BF16, and 132 instead of 256 for V3.2's index keys (see
`harness.contract.fp8`); scales are powers of two, so that unpacking to BF16 is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.contract.cache import CacheField, CacheFormat, LayerCache, NewKeys
from harness.contract.config import ModelConfig
from harness.contract.fp8 import index_key_bytes, latent_row_bytes
from harness.contract.fp8_tensors import hadamard_rotated
from harness.contract.operators import FP8_FUSED, Operators
from harness.contract.span import Span
from harness.contract.synthetic import INDEX_KEY

LATENT_ROW = "latent_row"


@dataclass(frozen=True)
class Packed(CacheField):
    """A field of bytes, and the numbers that they stand for."""

    latent: int = 0
    """C; 0 in a field of index keys."""
    rope: int = 0
    unpacked: torch.dtype = torch.float32
    """What rows are read back in."""


class Fp8Cache(CacheFormat):
    """See the module."""

    name = "fp8"

    def stored(self, config: ModelConfig, dtype: torch.dtype, added: Mapping[str, int]) -> Sequence[CacheField]:
        """One packed row per token, packed index keys, and a selector's other fields as they are."""
        latent, rope = config.kv_lora_rank, config.qk_rope_head_dim
        row = Packed(LATENT_ROW, latent_row_bytes(latent, rope), torch.uint8, None, latent, rope, dtype)
        return [row, *(_added_field(name, width, dtype) for name, width in added.items())]

    def new_layer(
        self, stored: Sequence[CacheField], batch: int, max_len: int, device: str, ops: Operators
    ) -> LayerCache:
        """See `CacheFormat.new_layer`."""
        return Fp8Layer(stored, batch, max_len, device, ops)

    def slots(self, added: Mapping[str, int]) -> Collection[str]:
        """See `CacheFormat.slots`; index scores over packed keys are FP8 products, attention unpacks."""
        scored = ("pack_index_keys", "fp8_index_scores") if INDEX_KEY in added else ()
        return ("pack_latents", "unpack_latents", *FP8_FUSED, *scored)


def _added_field(name: str, width: int, dtype: torch.dtype) -> CacheField:
    if name != INDEX_KEY:
        return CacheField(name, width, dtype)
    return Packed(name, index_key_bytes(width), torch.uint8, unpacked=dtype)


class Fp8Layer(LayerCache):
    """One layer of cache `fp8`: packs when written."""

    def __init__(self, stored: Sequence[CacheField], batch: int, max_len: int, device: str, ops: Operators) -> None:
        super().__init__(stored, batch, max_len, device)
        self.ops = ops
        self.packed = {field.name: field for field in stored if isinstance(field, Packed)}

    def write(self, new: NewKeys, span: Span) -> None:
        """See `LayerCache.write`."""
        self.put(LATENT_ROW, self.ops.pack_latents(new.rows_BTL, self.packed[LATENT_ROW].latent, True), span)
        for name, values_BTW in new.fields.items():
            self.put(name, self.ops.pack_index_keys(values_BTW) if name in self.packed else values_BTW, span)

    def packed_rows(self, end: int) -> Tensor:
        """A view."""
        return self.view(LATENT_ROW, end)

    def latent_rows(self, end: int) -> Tensor:
        """Unpacked."""
        row = self.packed[LATENT_ROW]
        return self.ops.unpack_latents(self.packed_rows(end), row.latent, row.rope, row.unpacked)

    def expanded(self, end: int) -> None:
        """Not stored."""
        return

    def field(self, name: str, end: int) -> Tensor:
        """A view; index keys are unpacked and rotated back."""
        stored_BSW = self.view(name, end)
        if name not in self.packed:
            return stored_BSW
        values_BSI = stored_BSW[..., :-4].contiguous().view(torch.float8_e4m3fn)
        scales_BS1 = stored_BSW[..., -4:].contiguous().view(torch.float32)
        return hadamard_rotated(values_BSI.float() * scales_BS1).to(self.packed[name].unpacked)

    def index_scores(self, ops: Operators, q_BTGI: Tensor, weights_BTG: Tensor, span: Span) -> Tensor:
        """See `Keys.index_scores`; straight from the packed keys."""
        if INDEX_KEY not in self.packed:
            return super().index_scores(ops, q_BTGI, weights_BTG, span)
        return ops.fp8_index_scores(q_BTGI, weights_BTG, self.view(INDEX_KEY, span.end), span)


FP8 = Fp8Cache()
