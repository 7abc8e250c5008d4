"""The operator table: what a kernel set computes, one slot each. `eager` is the reference for every slot.

No slot belongs to two axes: projections are the precision's, absorbing and expanding are the form's, storing is
the cache's, and what is between them stands here.

Shape letters: B batch, T queries, S keys, H heads, D hidden, C latent (kv_lora_rank), N nope, R rope, V value,
Q = N + R (width of a query head), L = C + R (width of a latent row), K selected keys, G index heads,
I index_head_dim, M tokens of all sequences, E experts, F moe_intermediate_size, A experts per token, P bytes of a
packed row; in lower case (k, n, d, f) the blocks of 128 along a dimension, as in scales [N / 128, K / 128].

Rules for every slot: inputs are not modified; outputs are new tensors in the dtype of the first argument unless
said otherwise; reductions (norms, softmax) accumulate in FP32, or FP64 for FP64 inputs; tensors may be views with
any strides but a contiguous last dimension. Which keys a query sees is said by a `Span`; key rows at or beyond
`ends[b]` may hold anything, NaN included, and must not reach a result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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


class Quantise(Protocol):
    """To E4M3 with one scale per group of values in a row (DeepSeek-V3, arXiv 2412.19437, section 3.3.2)."""

    def __call__(self, x: Tensor, group: int, power_of_two: bool) -> tuple[Tensor, Tensor]:
        """x [..., K] -> E4M3 [..., K] and FP32 scales [..., ceil(K / group)]: x is about values * scale.

        scale = max(amax, 1e-4) / 448 in FP32, rounded up to a power of two if asked; values = x / scale, correctly
        rounded, then to nearest even in E4M3, saturating. A NaN makes its own group NaN and no other.
        """


class Fp8Gemm(Protocol):
    """Block-scaled matrix product of E4M3 operands (DeepSeek-V3, arXiv 2412.19437, section 3.3.2)."""

    def __call__(
        self, x_MK: Tensor, x_scales_Mk: Tensor, weight_NK: Tensor, weight_scales_nk: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """x_scales per 1 x 128 tile, weight_scales per 128 x 128 block, the last ones partial -> [M, N] in `dtype`.

        For every 128 of K the product of the E4M3 values accumulates in FP32 and is multiplied by both scales; these
        are added in FP32 (FP64 throughout for `dtype` FP64).
        """


class Fp8GroupedExperts(Protocol):
    """`GroupedExperts` with E4M3 stacks: both products block-scaled, their left operands quantised 1 x 128 inside."""

    def __call__(
        self,
        x_MD: Tensor,
        experts_MA: Tensor,
        weights_MA: Tensor,
        gate_up_EXD: Tensor,
        gate_up_scales_E2fd: Tensor,
        down_EDF: Tensor,
        down_scales_Edf: Tensor,
        power_of_two: bool,
    ) -> Tensor:
        """gate_up_EXD [E, 2F, D] E4M3 (gate rows first), its scales FP32 [E, 2, ceil(F/128), ceil(D/128)] (gate's,
        then up's), down_EDF [E, D, F], its scales FP32 [E, ceil(D/128), ceil(F/128)] -> [M, D].

        gate, up, silu(gate) * up and an expert's output are rounded to the dtype of x; x and silu(gate) * up are
        quantised as by `Quantise`, with `power_of_two`.
        """


class PackLatents(Protocol):
    """Latent rows as bytes: E4M3 latents, their scales, BF16 rotary key (layout: `harness.contract.fp8`)."""

    def __call__(self, rows_BTL: Tensor, latent: int, power_of_two: bool) -> Tensor:
        """rows_BTL [B, T, C + R], C = `latent` a multiple of 4 -> uint8 [B, T, P]; scales as in `Quantise`."""


class UnpackLatents(Protocol):
    """The rows that `PackLatents` packed, rounded."""

    def __call__(self, packed_BSP: Tensor, latent: int, rope: int, dtype: torch.dtype) -> Tensor:
        """-> [B, S, C + R]: value times scale in FP32, then in `dtype`."""


class PackIndexKeys(Protocol):
    """Index keys as bytes: rotated, E4M3, one power-of-two scale (DeepSeek-V3.2-Exp inference code, `Indexer`)."""

    def __call__(self, keys_BTI: Tensor) -> Tensor:
        """keys_BTI [B, T, I], I a power of two -> uint8 [B, T, I + 4].

        Rotated by the orthonormal Hadamard matrix in Sylvester's order, in FP32; quantised as one group of I.
        """


class Fp8IndexScores(Protocol):
    """`IndexScores` over packed keys: queries rotated and quantised per token and head, like the keys."""

    def __call__(self, q_BTGI: Tensor, weights_BTG: Tensor, packed_BSP: Tensor, span: Span) -> Tensor:
        """-> FP32 (FP64 for FP64 queries) [B, T, span.end]; -inf where a query does not see a key.

        ReLU of the E4M3 values' product, times w_g and the query's scale, summed over g, times the key's scale.
        """


NOT_SLOTS = ("name", "fused", "builds", "remarks")
"""Fields of `Operators` that are no operators."""

FP8_SLOTS = (
    "quantise",
    "fp8_gemm",
    "fp8_grouped_experts",
    "pack_latents",
    "unpack_latents",
    "pack_index_keys",
    "fp8_index_scores",
)
"""Slots that only FP8 precisions and caches call; every other one may be called by any variant."""

FP8_PRODUCTS = frozenset({"fp8_gemm", "fp8_grouped_experts", "fp8_index_scores"})
"""Those that FP8 matrix units speed up: elsewhere they are emulated. The others convert, and cost what they cost."""

FP8_FUSED = ("fp8_mqa_attention", "fp8_mqa_sparse_attention")
"""Names in `Operators.fused` of the two MQA slots over packed rows; they multiply what they unpacked."""


def _no_remarks(capability: tuple[int, int] | None) -> Mapping[str, str]:
    return {}


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
    quantise: Quantise
    fp8_gemm: Fp8Gemm
    fp8_grouped_experts: Fp8GroupedExperts
    pack_latents: PackLatents
    unpack_latents: UnpackLatents
    pack_index_keys: PackIndexKeys
    fp8_index_scores: Fp8IndexScores
    fused: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Slots beyond the table that span several axes, such as sparse attention over a packed FP8 cache. Whoever
    offers one (a cache format, a form) looks it up by name and says in `unsupported()` which variants it takes.

    Known names: `fp8_mqa_attention(q_BTHL, packed_BSP, span, scale, value_width)` and `fp8_mqa_sparse_attention(q_BTHL,
    packed_BSP, selected_BTK, scale, value_width)`: the two MQA slots over rows as `PackLatents` packs them."""

    builds: Callable[[tuple[int, int]], Sequence[KernelBuild]] | None = None
    """Compute capability -> every kernel and configuration that this set would use there; None: nothing to compile."""

    remarks: Callable[[tuple[int, int] | None], Mapping[str, str]] = _no_remarks
    """Compute capability (None without a GPU) -> `emulated` or `interpreted` for every slot whose results are right
    there but whose speed says nothing (see `Runner.resolved`)."""

    def resolved(self, used: Collection[str] = (), capability: tuple[int, int] | None = None) -> dict[str, str]:
        """Slot -> `module.function` of what fills it, with the set's remark in brackets, for records.

        Of the FP8 slots those that are `used` alone, by the precision and the cache of a variant.
        """
        table = {slot.name: getattr(self, slot.name) for slot in fields(self) if slot.name not in NOT_SLOTS}
        hidden = {*FP8_SLOTS, *FP8_FUSED} - set(used)
        shown = {name: function for name, function in (table | dict(self.fused)).items() if name not in hidden}
        remarks = self.remarks(capability)
        return {
            name: _qualified(function) + (f" ({remarks[name]})" if name in remarks else "")
            for name, function in shown.items()
        }


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
