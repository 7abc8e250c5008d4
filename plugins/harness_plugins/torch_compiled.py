"""The reference's formulas as `torch.compile` takes them: tensors and numbers in, no loop over data, any size.

Everything is compiled once for all sizes (`dynamic=True`), because a decode step sees another context length every
time; only sizes of 1 are compiled apart, as torch always does. Positions come as tensors, so no length is baked in.
`fullgraph=True` makes what would silently run uncompiled an error. Loops over chunks, which bound memory, stay outside.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from harness.contract.operators import Operators, accumulation_dtype, reference_operators
from harness.contract.span import Span

SCORE_BYTES = {"cuda": 1 << 30, "cpu": 16 << 20}
"""Largest tensor of attention scores at one time, by device."""


def operators(backend: str = "inductor") -> Operators:
    """Compiled functions in every slot that is no loop over data; the reference in the others.

    `backend` is torch.compile's: `eager` traces without making machine code.
    """
    eager, compiled = reference_operators(), Compiled(backend)
    attention = Attention(*(compiled(function) for function in (_mha, _mha_selected, _mqa, _sparse, _index)))
    return dataclasses.replace(
        eager,
        name="torch_compile",
        rms_norm=compiled(eager.rms_norm),
        add_rms_norm=compiled(eager.add_rms_norm),
        rotary=compiled(eager.rotary),
        swiglu=compiled(eager.swiglu),
        mha_attention=attention.mha_attention,
        mqa_attention=attention.mqa_attention,
        mqa_sparse_attention=attention.mqa_sparse_attention,
        index_scores=attention.index_scores,
    )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Compiles functions; records call the result by the name of what was compiled."""

    backend: str

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        fast = torch.compile(function, dynamic=True, fullgraph=True, backend=self.backend)

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return fast(*arguments)

        call.__qualname__ = f"compiled.{function.__qualname__}"
        call.__module__ = __name__
        return call


@dataclasses.dataclass(frozen=True)
class Attention:
    """Slots that go over chunks of queries, around compiled functions of one chunk."""

    mha: Callable[..., Tensor]
    mha_selected: Callable[..., Tensor]
    mqa: Callable[..., Tensor]
    sparse: Callable[..., Tensor]
    index: Callable[..., Tensor]

    def mha_attention(
        self, q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
    ) -> Tensor:
        """See `MhaAttention`."""
        k, v = k_BHSQ[:, :, : span.end], v_BHSV[:, :, : span.end]
        pieces = []
        for columns, positions_BT, ends_B in _chunks(span, q_BTHQ, q_BTHQ.shape[2]):
            q = q_BTHQ[:, columns]
            if selected_BTK is None:
                pieces.append(self.mha(q, k, v, positions_BT, ends_B, scale))
            else:
                pieces.append(self.mha_selected(q, k, v, selected_BTK[:, columns], ends_B, scale))
        return torch.cat(pieces, 1)

    def mqa_attention(self, q_BTHL: Tensor, rows_BSL: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
        """See `MqaAttention`."""
        rows = rows_BSL[:, : span.end]
        pieces = [
            self.mqa(q_BTHL[:, columns], rows, positions_BT, ends_B, scale, value_width)
            for columns, positions_BT, ends_B in _chunks(span, q_BTHL, q_BTHL.shape[2])
        ]
        return torch.cat(pieces, 1)

    def mqa_sparse_attention(
        self, q_BTHL: Tensor, rows_BSL: Tensor, selected_BTK: Tensor, scale: float, value_width: int
    ) -> Tensor:
        """See `MqaSparseAttention`."""
        row_bytes = selected_BTK.shape[-1] * rows_BSL.shape[-1] * rows_BSL.element_size() * max(1, q_BTHL.shape[0])
        count = max(1, _limit(q_BTHL) // max(1, row_bytes))
        pieces = zip(q_BTHL.split(count, 1), selected_BTK.split(count, 1), strict=True)
        return torch.cat([self.sparse(q, rows_BSL, chosen, scale, value_width) for q, chosen in pieces], 1)

    def index_scores(self, q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
        """See `IndexScores`."""
        keys = k_BSI[:, : span.end]
        pieces = [
            self.index(q_BTGI[:, columns], weights_BTG[:, columns], keys, positions_BT, ends_B)
            for columns, positions_BT, ends_B in _chunks(span, q_BTGI, q_BTGI.shape[2])
        ]
        return torch.cat(pieces, 1)


def _chunks(span: Span, queries: Tensor, heads: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Columns of queries whose scores fit into memory, their positions [B, t] and the ends [B] of their sequences."""
    row = max(1, span.batch * heads * span.end * accumulation_dtype(queries.dtype).itemsize)
    count = max(1, _limit(queries) // row)
    ends_B = torch.tensor(span.ends, device=queries.device)
    positions_BT = span.positions(queries.device)
    for first in range(0, max(1, span.width), count):
        columns = slice(first, min(first + count, span.width))
        yield columns, positions_BT[:, columns], ends_B


def _limit(tensor: Tensor) -> int:
    return SCORE_BYTES.get(tensor.device.type, SCORE_BYTES["cpu"])


# --- what is compiled ------------------------------------------------------------------------------------


def _visible(positions_BT: Tensor, ends_B: Tensor, keys: int) -> Tensor:
    """bool [B, T, S]."""
    keys_S = torch.arange(keys, device=positions_BT.device)
    return (keys_S <= positions_BT[..., None]) & (keys_S < ends_B[:, None, None])


def _written(rows: Tensor, ends_B: Tensor, dim: int) -> Tensor:
    """Rows with zeros where a sequence has none: what nobody wrote may be NaN, and zero times NaN is NaN."""
    shape = [1] * rows.dim()
    shape[dim] = rows.shape[dim]
    places = torch.arange(rows.shape[dim], device=rows.device).view(shape)
    ends = ends_B.view(-1, *[1] * (rows.dim() - 1))
    return torch.where(places < ends, rows, 0)


def _probabilities(scores: Tensor) -> Tensor:
    """Softmax in FP32 or wider; zeros for a query that sees nothing (padding)."""
    return torch.softmax(scores, -1, dtype=accumulation_dtype(scores.dtype)).nan_to_num(0.0).to(scores.dtype)


def _mha(q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, positions_BT: Tensor, ends_B: Tensor, scale: float) -> Tensor:
    hidden_BTS = ~_visible(positions_BT, ends_B, k_BHSQ.shape[2])
    return _mha_masked(q_BTHQ, _written(k_BHSQ, ends_B, 2), _written(v_BHSV, ends_B, 2), hidden_BTS, scale)


def _mha_selected(
    q_BTHQ: Tensor,
    k_BHSQ: Tensor,
    v_BHSV: Tensor,
    selected_BTK: Tensor,
    ends_B: Tensor,
    scale: float,
) -> Tensor:
    keys = k_BHSQ.shape[2]
    chosen = torch.zeros(*selected_BTK.shape[:2], keys + 1, dtype=torch.bool, device=q_BTHQ.device)
    chosen = chosen.scatter(2, torch.where(selected_BTK < 0, keys, selected_BTK).long(), True)[..., :keys]
    return _mha_masked(q_BTHQ, _written(k_BHSQ, ends_B, 2), _written(v_BHSV, ends_B, 2), ~chosen, scale)


def _mha_masked(q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, hidden_BTS: Tensor, scale: float) -> Tensor:
    scores_BHTS = torch.matmul((q_BTHQ * scale).transpose(1, 2), k_BHSQ.transpose(-1, -2))
    scores_BHTS = scores_BHTS.masked_fill(hidden_BTS[:, None], -torch.inf)
    return torch.matmul(_probabilities(scores_BHTS), v_BHSV).transpose(1, 2)


def _mqa(
    q_BTHL: Tensor, rows_BSL: Tensor, positions_BT: Tensor, ends_B: Tensor, scale: float, value_width: int
) -> Tensor:
    rows = _written(rows_BSL, ends_B, 1)
    scores_BTHS = torch.matmul((q_BTHL * scale).flatten(1, 2), rows.transpose(-1, -2)).unflatten(1, q_BTHL.shape[1:3])
    hidden_BTS = ~_visible(positions_BT, ends_B, rows.shape[1])
    weights_BTHS = _probabilities(scores_BTHS.masked_fill(hidden_BTS[:, :, None], -torch.inf))
    return torch.matmul(weights_BTHS.flatten(1, 2), rows[..., :value_width]).unflatten(1, q_BTHL.shape[1:3])


def _sparse(q_BTHL: Tensor, rows_BSL: Tensor, selected_BTK: Tensor, scale: float, value_width: int) -> Tensor:
    batch = torch.arange(rows_BSL.shape[0], device=rows_BSL.device)[:, None, None]
    none_BTK = selected_BTK < 0
    rows_BTKL = rows_BSL[batch, selected_BTK.clamp(min=0)].masked_fill(none_BTK[..., None], 0)
    scores_BTHK = torch.matmul(q_BTHL * scale, rows_BTKL.transpose(-1, -2))
    weights_BTHK = _probabilities(scores_BTHK.masked_fill(none_BTK[:, :, None], -torch.inf))
    return torch.matmul(weights_BTHK, rows_BTKL[..., :value_width])


def _index(q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, positions_BT: Tensor, ends_B: Tensor) -> Tensor:
    wide = accumulation_dtype(q_BTGI.dtype)
    keys = _written(k_BSI, ends_B, 1).to(wide)
    per_head = (
        torch.matmul(q_BTGI.to(wide).flatten(1, 2), keys.transpose(-1, -2)).relu().unflatten(1, q_BTGI.shape[1:3])
    )
    scores_BTS = torch.matmul(weights_BTG.to(wide)[:, :, None], per_head).squeeze(2)
    return scores_BTS.masked_fill(~_visible(positions_BT, ends_B, keys.shape[1]), -torch.inf)
