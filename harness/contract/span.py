"""Where the new tokens of a call stand: the one description of raggedness that all operators share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Span:
    """T new tokens for each of B sequences, which may have had different lengths before.

    Sequence b has `starts[b]` tokens before this call and `ends[b]` after it. Query t of sequence b stands at
    position starts[b] + t and sees the keys at positions <= its own that are < ends[b]. Columns t with
    starts[b] + t >= ends[b] are padding: their results are arbitrary, but finite if the inputs are.

    The numbers are plain integers on the host, so that no operator waits for the device to learn a shape.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    width: int
    """T, the number of query columns."""

    @classmethod
    def fresh(cls, batch: int, width: int) -> Span:
        """The span of `batch` whole sequences of `width` tokens, nothing before them."""
        return cls((0,) * batch, (width,) * batch, width)

    @property
    def batch(self) -> int:
        """B."""
        return len(self.starts)

    @property
    def end(self) -> int:
        """S, the number of keys of the longest sequence after this call."""
        return max(self.ends)

    @property
    def uniform(self) -> bool:
        """True when all sequences stand at the same place, so that one batched product serves them all."""
        return len(set(self.starts)) == 1 and len(set(self.ends)) == 1

    def positions(self, device: torch.device | str) -> torch.Tensor:
        """int64 [B, T]: the position of every query, padding included."""
        starts_B = torch.tensor(self.starts, device=device)
        return starts_B[:, None] + torch.arange(self.width, device=device)

    def visible(self, device: torch.device | str) -> torch.Tensor:
        """bool [B, T, S]: which keys a query sees. For chunks of queries; never built for a whole long sequence."""
        keys_S = torch.arange(self.end, device=device)
        ends_B = torch.tensor(self.ends, device=device)
        return (keys_S <= self.positions(device)[..., None]) & (keys_S < ends_B[:, None, None])

    def columns(self, first: int, stop: int) -> Span:
        """The span of query columns `first` to `stop` alone; keys that none of them sees are cut off."""
        starts = tuple(start + first for start in self.starts)
        ends = tuple(min(end, start + stop) for start, end in zip(self.starts, self.ends, strict=True))
        return Span(starts, ends, stop - first)

    def chunks(self, size: int) -> Iterator[tuple[slice, Span]]:
        """Consecutive chunks of at most `size` query columns: the columns, and their span; one empty one for T = 0."""
        for first in range(0, max(self.width, 1), size):
            stop = min(first + size, self.width)
            yield slice(first, stop), self.columns(first, stop)

    def sequences(self) -> Iterator[tuple[slice, Span]]:
        """Groups of sequences that can be computed together: the whole batch when uniform, else one at a time."""
        if self.uniform:
            yield slice(0, self.batch), self
            return
        for b, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            yield slice(b, b + 1), Span((start,), (end,), self.width)
