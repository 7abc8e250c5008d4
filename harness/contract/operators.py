"""The operator table: what a kernel set computes, one slot each. `eager` is the reference for every slot.

No slot belongs to two axes: projections are the precision's, absorbing and expanding are the form's, storing is
the cache's, and what is between them stands here.

Shape letters: B batch, T queries, S keys, H heads, D hidden, C latent (kv_lora_rank), N nope, R rope, V value,
Q = N + R (width of a query head), L = C + R (width of a latent row), K selected keys, G index heads,
I index_head_dim, M tokens of all sequences, E experts, F moe_intermediate_size, A experts per token.

Rules for every slot: inputs are not modified; outputs are new tensors in the dtype of the first argument unless
said otherwise; reductions (norms, softmax) accumulate in FP32, or FP64 for FP64 inputs; tensors may be views with
any strides but a contiguous last dimension. Which keys a query sees is said by a `Span`; key rows at or beyond
`ends[b]` may hold anything, NaN included, and must not reach a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.contract.compiling import KernelBuild
from harness.contract.span import Span


class RmsNorm(Protocol):
    """x * rsqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467)."""

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., D], weight [D] -> [..., D]."""


class AddRmsNorm(Protocol):
    """The norm of a residual sum, and the sum."""

    def __call__(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """x, residual [..., D], weight [D] -> (norm(x + residual), x + residual)."""


class Rotary(Protocol):
    """Rotary position embedding (arXiv 2104.09864) of pairs; the result is always in split layout."""

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        """x [..., R]; cos and sin [..., R/2], broadcastable, FP32 or wider -> [..., R].

        Pair i is (x[2i], x[2i+1]) when `interleaved`, else (x[i], x[i + R/2]). Its first component goes to
        column i, its second to column i + R/2, so that dot products do not depend on the input's layout.
        """


class SwiGlu(Protocol):
    """silu(gate) * up (arXiv 2002.05202)."""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up [..., F] -> [..., F]."""


class MhaAttention(Protocol):
    """Attention with keys and values of every head (DeepSeek-V2, arXiv 2405.04434, equations 9 to 19)."""

    def __call__(
        self, q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
    ) -> Tensor:
        """-> [B, T, H, V]. With `selected_BTK` (int, -1 = none) a query attends to the selected keys alone."""


class MqaAttention(Protocol):
    """Attention of all heads over one shared row per token; the values are the first C columns of the rows."""

    def __call__(self, q_BTHL: Tensor, rows_BSL: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
        """-> [B, T, H, C], C = value_width."""


class MqaSparseAttention(Protocol):
    """`MqaAttention` over selected rows only: gathers them, never touches the others."""

    def __call__(
        self, q_BTHL: Tensor, rows_BSL: Tensor, selected_BTK: Tensor, scale: float, value_width: int
    ) -> Tensor:
        """selected_BTK (int, -1 = none, at least one per query) indexes S -> [B, T, H, C], C = value_width."""


class IndexScores(Protocol):
    """DSA's lightning indexer (DeepSeek-V3.2-Exp report, equation 1): sum over g of w_g * ReLU(q_g . k)."""

    def __call__(self, q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
        """-> FP32 (FP64 for FP64 inputs) [B, T, span.end]; -inf where a query does not see a key.

        Computed in that precision whatever the input's. Must not hold a [T, G, S] tensor for a whole sequence.
        """


class SelectTopk(Protocol):
    """The `count` highest scores of every row, ties broken by the declared rule: the lowest position first."""

    def __call__(self, scores_BTS: Tensor, count: int) -> Tensor:
        """-> int64 [B, T, count]: selected positions ascending, then -1 where fewer keys are above -inf.

        The selection depends on a row's own scores alone, not on the shape that it came in; -0.0 equals 0.0.
        """


class GroupedExperts(Protocol):
    """Routed experts' SwiGLU networks, tokens sorted by expert, weighted and summed per token."""

    def __call__(
        self, x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor, gate_up_EXD: Tensor, down_EDF: Tensor
    ) -> Tensor:
        """experts_MA int64, weights_MA FP32 or wider, gate_up_EXD [E, 2F, D] (gate rows first) -> [M, D]."""


NOT_SLOTS = ("name", "fused", "builds")
"""Fields of `Operators` that are no operators."""


@dataclass(frozen=True)
class Operators:
    """One kernel set: a callable for every slot."""

    name: str
    rms_norm: RmsNorm
    add_rms_norm: AddRmsNorm
    rotary: Rotary
    swiglu: SwiGlu
    mha_attention: MhaAttention
    mqa_attention: MqaAttention
    mqa_sparse_attention: MqaSparseAttention
    index_scores: IndexScores
    select_topk: SelectTopk
    grouped_experts: GroupedExperts
    fused: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Slots beyond the table that span several axes, such as sparse attention over a packed FP8 cache. Whoever
    offers one (a cache format, a form) looks it up by name and says in `unsupported()` which variants it takes."""

    builds: Callable[[tuple[int, int]], Sequence[KernelBuild]] | None = None
    """Compute capability -> every kernel and configuration that this set would use there; None: nothing to compile."""

    def resolved(self) -> dict[str, str]:
        """Slot -> `module.function` of what fills it, for records."""
        slots = {slot.name: getattr(self, slot.name) for slot in fields(self) if slot.name not in NOT_SLOTS}
        return {name: _qualified(function) for name, function in (slots | dict(self.fused)).items()}


def reference_operators() -> Operators:
    """The kernel set `eager`, for plugins that replace some slots and keep the rest.

    >>> mine = dataclasses.replace(reference_operators(), name="mine", rms_norm=my_rms_norm)  # doctest: +SKIP
    """
    from harness.contract.registry import Registry

    operators: Operators = Registry(entry_points=False).option("kernels", "eager").load()
    return operators


def _qualified(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """What reductions over values of `dtype` accumulate in: FP64 for FP64, else FP32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
