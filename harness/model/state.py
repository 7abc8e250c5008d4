"""What the native engine keeps of a batch of sequences between calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from harness.contract.cache import NewKeys
from harness.contract.runner import State
from harness.contract.span import Span
from harness.contract.synthetic import BLOCK, LATENT, ROPE_KEY, synthetic_field
from harness.errors import UsageError
from harness.model.transformer import CausalLm


class NativeState(State):
    """One cache per layer, and every sequence's length on the host (`lengths_B` is a CPU tensor on every device)."""

    def __init__(self, model: CausalLm, batch: int, max_len: int) -> None:
        self._model = model
        self.max_len = max_len
        self.lengths_B = torch.zeros(batch, dtype=torch.int64)
        self._added = model.parts.selector.cache_fields(model.config)
        dtype, cache = model.parts.precision.dtype, model.parts.cache
        stored = cache.stored(model.config, dtype, self._added)
        self._per_layer = sum(field.bytes_per_token for field in stored)
        self.caches = [cache.new_layer(stored, batch, max_len, model.device, model.parts.ops) for _ in model.layers()]

    @property
    def bytes(self) -> int:
        """See `State.bytes`."""
        return sum(cache.bytes for cache in self.caches)

    @property
    def bytes_per_token(self) -> int:
        """See `State.bytes_per_token`."""
        return self._per_layer * len(self.caches)

    def storage(self) -> Iterator[torch.Tensor]:
        """See `State.storage`."""
        return (tensor for cache in self.caches for tensor in cache.storage.values())

    def span_of(self, width: int, counts: Sequence[int]) -> Span:
        """Where the next `width` columns stand when sequence b brings counts[b] tokens. Raises UsageError when full."""
        starts = self.lengths_B.tolist()
        if len(counts) != len(starts):
            raise UsageError(f"the state holds {len(starts)} sequences, and this call brings {len(counts)}")
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        if max(ends) > self.max_len:
            raise UsageError(f"the state holds at most {self.max_len} tokens a sequence; this call makes {max(ends)}")
        return Span(tuple(starts), tuple(ends), width)

    def advance(self, span: Span) -> None:
        """The tokens at `span` are in the caches now."""
        self.lengths_B = torch.tensor(span.ends)

    def truncate(self, lengths_B: Sequence[int] | torch.Tensor) -> None:
        """See `State.truncate`."""
        lengths = [int(length) for length in lengths_B]
        present_lengths = self.lengths_B.tolist()
        if len(lengths) != len(present_lengths):
            raise ValueError(f"got {len(lengths)} lengths for {len(present_lengths)} sequences")
        for wanted, present in zip(lengths, present_lengths, strict=True):
            if not 0 <= wanted <= present:
                raise ValueError(f"cannot truncate a sequence of {present} tokens to {wanted}")
        self.lengths_B = torch.tensor(lengths)

    @torch.no_grad()
    def fill_random(self, seed: int, length: int) -> None:
        """See `State.fill_random` and `harness.contract.synthetic`."""
        if not 0 <= length <= self.max_len:
            raise ValueError(f"cannot fill {length} tokens, the state holds at most {self.max_len}")
        batch = len(self.lengths_B)
        for layer in range(len(self.caches)):
            for start in range(0, length, BLOCK):
                stop = min(start + BLOCK, length)
                span = Span((start,) * batch, (stop,) * batch, stop - start)
                self.caches[layer].write(self._synthetic(seed, layer, start, stop), span)
        self.lengths_B = torch.full((batch,), length)

    def _synthetic(self, seed: int, layer: int, start: int, stop: int) -> NewKeys:
        """Keys of positions start to stop, batch 1: every sequence holds the same."""
        model = self._model

        def field(name: str, width: int) -> torch.Tensor:
            rows = synthetic_field(seed, layer, name, start, stop, width)
            return rows[None].to(model.device, model.parts.precision.dtype)

        latent_BTC = field(LATENT, model.config.kv_lora_rank)
        rope_key_BTR = field(ROPE_KEY, model.config.qk_rope_head_dim)
        new = NewKeys(latent_BTC, rope_key_BTR, *model.layers()[layer].self_attn.up_weights())
        new.fields.update({name: field(name, width) for name, width in self._added.items()})
        return new
