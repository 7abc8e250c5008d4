"""The calls that every operator slot is checked with: one function per slot of `Operators`, of the same name.

Odd sizes, one token, no rows, ragged sequences, inputs with other strides. Key rows that no query may see are NaN.
The first line of a function's docstring says what must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from harness.contract.span import Span

HEADS, NOPE, ROPE, VALUE, LATENT = 3, 8, 4, 6, 16

SPANS = {
    "one sequence": Span((0,), (13,), 13),
    "two alike, continued": Span((5, 5), (12, 12), 7),
    "one token each": Span((9, 9), (10, 10), 1),
    "a first token": Span((0,), (1,), 1),
    "ragged": Span((3, 0, 8), (10, 7, 10), 7),
}


@dataclass(frozen=True)
class Call:
    """One call of a slot: what is special about it, and its positional arguments in FP64 on the CPU.

    A tensor that is a view stays one, with the same kind of strides, when it is cast to another precision.
    """

    what: str
    arguments: tuple[Any, ...]


class Draw:
    """Seeded random inputs."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """FP64 standard normal, already rounded to BF16 so that every precision sees the same numbers."""
        return torch.randn(shape, generator=self.generator).bfloat16().double()

    def view(self, *shape: int) -> Tensor:
        """The same as a view into a wider tensor: the last dimension is contiguous, the others' strides are not."""
        return self.normal(*shape[:-1], shape[-1] + 5)[..., 2 : shape[-1] + 2]

    def keys(self, span: Span, *shape: int, dim: int) -> Tensor:
        """Rows along `dim` for a little more than span.end positions; NaN from each sequence's end on."""
        rows = self.normal(*shape)
        for b, end in enumerate(span.ends):
            rows[b].narrow(dim - 1, end, shape[dim] - end).fill_(float("nan"))
        return rows

    def selection(self, span: Span, count: int, none_first: bool = False) -> Tensor:
        """int64 [B, T, count]: distinct visible keys, at least one each, and -1 behind or before them."""
        chosen = torch.full((span.batch, span.width, count), -1)
        for b, (start, end) in enumerate(zip(span.starts, span.ends, strict=True)):
            for t in range(span.width):
                visible = min(start + t + 1, end)
                picked = torch.randperm(visible, generator=self.generator)[:count].sort().values
                first = count - len(picked) if none_first else 0
                chosen[b, t, first : first + len(picked)] = picked
        return chosen


def rms_norm(draw: Draw) -> Iterator[Call]:
    """The norm equals the reference."""
    for shape in ((2, 7, 24), (1, 1), (3, 129), (0, 16)):
        yield Call(f"x {shape}", (draw.view(*shape), draw.normal(shape[-1]), 1e-6))


def add_rms_norm(draw: Draw) -> Iterator[Call]:
    """The norm of a sum, and the sum, equal the reference."""
    for shape in ((2, 7, 24), (1, 1), (0, 16)):
        yield Call(f"x {shape}", (draw.view(*shape), draw.normal(*shape), draw.normal(shape[-1]), 1e-6))


def rotary(draw: Draw) -> Iterator[Call]:
    """Rotation equals the reference in both input layouts, for positions that do matter."""
    for shape in ((2, 5, 3, 8), (1, 1, 1, 2), (0, 1, 1, 4)):
        angles = torch.arange(shape[1]).double()[:, None, None] * torch.rand(shape[-1] // 2, generator=draw.generator)
        for interleaved in (True, False):
            arguments = (draw.view(*shape), angles.cos(), angles.sin(), interleaved)
            yield Call(f"x {shape}, {'interleaved' if interleaved else 'split'}", arguments)


def swiglu(draw: Draw) -> Iterator[Call]:
    """silu(gate) * up equals the reference."""
    for shape in ((2, 7, 24), (1, 1), (0, 16)):
        yield Call(f"gate {shape}", (draw.view(*shape), draw.view(*shape)))


def mha_attention(draw: Draw) -> Iterator[Call]:
    """Attention over expanded heads equals the reference: causal, ragged, with and without a selection."""
    for what, span in SPANS.items():
        q = draw.view(span.batch, span.width, HEADS, NOPE + ROPE)
        k = draw.keys(span, span.batch, HEADS, span.end + 3, NOPE + ROPE, dim=2)
        v = draw.keys(span, span.batch, HEADS, span.end + 3, VALUE, dim=2)
        yield Call(what, (q, k, v, span, 0.3, None))
        yield Call(f"{what}, 4 selected", (q, k, v, span, 0.3, draw.selection(span, 4, none_first=True).int()))


def mqa_attention(draw: Draw) -> Iterator[Call]:
    """Attention over shared latent rows equals the reference: causal and ragged."""
    for what, span in SPANS.items():
        q = draw.view(span.batch, span.width, HEADS, LATENT + ROPE)
        rows = draw.keys(span, span.batch, span.end + 3, LATENT + ROPE, dim=1)
        yield Call(what, (q, rows, span, 0.3, LATENT))


def mqa_sparse_attention(draw: Draw) -> Iterator[Call]:
    """Attention over gathered rows equals the reference, with any number of keys missing."""
    for what, span in SPANS.items():
        q = draw.view(span.batch, span.width, HEADS, LATENT + ROPE)
        rows = draw.keys(span, span.batch, span.end + 3, LATENT + ROPE, dim=1)
        for count, none_first in ((1, False), (4, False), (4, True)):
            chosen = draw.selection(span, count, none_first)
            where = "before" if none_first else "behind"
            yield Call(f"{what}, {count} selected, -1 {where} them", (q, rows, chosen, 0.3, LATENT))


def index_scores(draw: Draw) -> Iterator[Call]:
    """Index scores equal the reference, in FP32 or wider, -inf where a query does not see a key."""
    for what, span in SPANS.items():
        q, weights = draw.view(span.batch, span.width, 5, 12), draw.normal(span.batch, span.width, 5)
        yield Call(what, (q, weights, draw.keys(span, span.batch, span.end + 3, 12, dim=1), span))


def select_topk(draw: Draw) -> Iterator[Call]:
    """The selection is exactly the declared one, ties included: the lowest position first."""
    scores = draw.normal(2, 6, 40)
    hidden = scores.clone()
    hidden[0, 2, 3:] = -torch.inf
    hidden[1, 4, 1:] = -torch.inf
    zeros = torch.zeros(1, 3, 40, dtype=torch.float64)
    zeros[:, 1, ::2] = -0.0
    for what, given in (
        ("no ties", scores),
        ("few visible", hidden),
        ("all tied", zeros),
        ("many ties", scores.round()),
    ):
        for count in (1, 7, given.shape[-1]):
            yield Call(f"{what}, {count} of 40", (given, count))


def grouped_experts(draw: Draw) -> Iterator[Call]:
    """Routed experts equal the reference, with unused experts and no tokens at all."""
    for tokens, chosen in ((7, 3), (1, 1), (0, 2)):
        experts = torch.rand(tokens, 6, generator=draw.generator).argsort(-1)[:, :chosen]
        weights = torch.rand(tokens, chosen, generator=draw.generator).double()
        arguments = (
            draw.view(tokens, 16),
            experts,
            weights,
            0.3 * draw.normal(6, 24, 16),
            0.3 * draw.normal(6, 16, 12),
        )
        yield Call(f"{tokens} tokens, {chosen} experts each", arguments)


CallsOfSlot: TypeAlias = Callable[[Draw], Iterator[Call]]

SLOTS: tuple[CallsOfSlot, ...] = (
    rms_norm,
    add_rms_norm,
    rotary,
    swiglu,
    mha_attention,
    mqa_attention,
    mqa_sparse_attention,
    index_scores,
    select_topk,
    grouped_experts,
)
"""All of them, in the order of the operator table."""
