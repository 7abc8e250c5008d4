"""Seeded cache content, the same in every engine, so that all of them decode over the same context.

The content is defined in three logical fields, before any storage format:

==========  ==================  ==========================================================================
field       width               content
==========  ==================  ==========================================================================
latent      kv_lora_rank        standard normal, each row scaled to unit root mean square
rope_key    qk_rope_head_dim    standard normal; the key *after* rotation, in split layout (see below)
index_key   index_head_dim      standard normal; the indexer's key after norm and rotation: rotated part first, split
==========  ==================  ==========================================================================

Split layout: the first half of `rope_key` holds the first component of every rotated pair, the second half the
second. `native` stores it so, and so does transformers for V3, V3.2 and GLM; transformers' V2 keeps the pairs
interleaved and must interleave the two halves. A cache of expanded keys and values is computed from these latents
through the model's own `kv_b_proj`; a quantised cache quantises them as it does real ones.
"""

from __future__ import annotations

import hashlib

import torch

LATENT, ROPE_KEY, INDEX_KEY = "latent", "rope_key", "index_key"

BLOCK = 1024
"""Positions that share one generator, so that any slice is made without making what stands before it."""


def synthetic_field(seed: int, layer: int, field: str, start: int, stop: int, width: int) -> torch.Tensor:
    """Rows `start` to `stop` of one logical field of one layer: float32 [stop - start, width] on the CPU.

    Row p is row p % BLOCK of `torch.randn(BLOCK, width)`, block = p // BLOCK, under a generator whose seed is the
    first eight bytes (little endian, shifted right by one bit) of sha256("seed/layer/field/block"). It depends on
    nothing else: every sequence of a batch gets the same rows.
    """
    blocks = range(start // BLOCK, -(-stop // BLOCK))
    rows = torch.cat([_block(seed, layer, field, block, width) for block in blocks] or [torch.empty(0, width)])
    offset = start - blocks.start * BLOCK
    rows = rows[offset : offset + stop - start]
    if field == LATENT:
        rows = rows * rows.square().mean(-1, keepdim=True).rsqrt()
    return rows


def _block(seed: int, layer: int, field: str, block: int, width: int) -> torch.Tensor:
    digest = hashlib.sha256(f"{seed}/{layer}/{field}/{block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(BLOCK, width, generator=generator)
