"""What every operator is measured with: random inputs at the dimensions of a model, and how they reach the slot.

Inputs are drawn in FP32 on the device, so that every kernel set sees the same numbers and rounds them itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.config import ModelConfig
from harness.contract.fp8 import latent_row_bytes
from harness.contract.operators import Operators
from harness.contract.span import Span
from harness.errors import UsageError
from harness.measure.operator_error import RECIPES

Inputs = tuple[Any, ...]
COPY_BYTES = {"cuda": 4 << 30, "cpu": 64 << 20}
"""What `copy` moves: far more than any cache holds."""


@dataclass(frozen=True)
class OpShape:
    """A workload's numbers beside the model's: B sequences, T new tokens each, S keys of each, one matrix."""

    config: ModelConfig
    batch: int
    tokens: int
    keys: int
    weight: str | None = None

    @property
    def span(self) -> Span:
        """Where the new tokens stand."""
        return Span((self.keys - self.tokens,) * self.batch, (self.keys,) * self.batch, self.tokens)

    @property
    def selected(self) -> int:
        """K, the keys that DSA selects."""
        return min(self.config.index_topk, self.keys)

    def matrix(self) -> tuple[int, int]:
        """(N, K) of the matrix. Raises UsageError without one, or for one that this model has not."""
        c = self.config
        queries, values = c.num_attention_heads * c.qk_head_dim, c.num_attention_heads * c.v_head_dim
        sizes = {
            "q_a_proj": (c.q_lora_rank, c.hidden_size),
            "q_b_proj": (queries, c.q_lora_rank),
            "kv_a_proj_with_mqa": (c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size),
            "kv_b_proj": (c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank),
            "o_proj": (c.hidden_size, values),
            "gate_proj": (c.intermediate_size, c.hidden_size),
            "up_proj": (c.intermediate_size, c.hidden_size),
            "down_proj": (c.hidden_size, c.intermediate_size),
        }
        rows, columns = sizes.get(self.weight or "", (None, None))
        if not rows or not columns:
            raise UsageError(f"operators with a matrix need a weight that the model has, not {self.weight!r}")
        return rows, columns


class Draw:
    """Seeded random tensors on a device."""

    def __init__(self, seed: int, device: str) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """FP32 standard normal."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def weight(self, *shape: int) -> Tensor:
        """FP32 normal whose product with unit rows has unit variance."""
        return self.normal(*shape) * shape[-1] ** -0.5

    def selection(self, span: Span, count: int) -> Tensor:
        """int64 [B, T, count]: distinct visible keys in ascending order, spread evenly; -1 behind them."""
        visible_BT1 = (span.positions(self.device) + 1)[..., None]
        every = torch.arange(count, device=self.device)
        first_BTK, next_BTK = every * visible_BT1 // count, (every + 1) * visible_BT1 // count
        share_BTK = torch.rand(first_BTK.shape, generator=self.generator, device=self.device)
        spread = first_BTK + ((next_BTK - first_BTK) * share_BTK.clamp(max=0.999)).long()
        few = torch.where(every < visible_BT1, every, -1)
        return torch.where(visible_BT1 > count, spread, few)


@dataclass(frozen=True)
class OpCase:
    """One operator. `axes` says of every input which of its first dimensions are B, T or M (= B * T)."""

    inputs: Callable[[OpShape, Draw], Inputs]
    axes: tuple[str, ...]


def _rms_norm(s: OpShape, draw: Draw) -> Inputs:
    width = s.config.hidden_size
    return draw.normal(s.batch, s.tokens, width), 1 + 0.1 * draw.normal(width), s.config.rms_norm_eps


def _add_rms_norm(s: OpShape, draw: Draw) -> Inputs:
    x, weight, eps = _rms_norm(s, draw)
    return x, draw.normal(*x.shape), weight, eps


def _rotary(s: OpShape, draw: Draw) -> Inputs:
    rope = s.config.qk_rope_head_dim
    frequencies = 1e4 ** -(torch.arange(rope // 2, device=draw.device) * 2 / rope)
    angles = s.span.positions(draw.device)[:, :, None, None] * frequencies
    x = draw.normal(s.batch, s.tokens, s.config.num_attention_heads, rope)
    return x, angles.cos(), angles.sin(), True


def _swiglu(s: OpShape, draw: Draw) -> Inputs:
    shape = (s.batch, s.tokens, s.config.intermediate_size)
    return draw.normal(*shape), draw.normal(*shape)


def _mha(s: OpShape, draw: Draw) -> Inputs:
    c, heads = s.config, s.config.num_attention_heads
    q = draw.normal(s.batch, s.tokens, heads, c.qk_head_dim)
    k = draw.normal(s.batch, heads, s.keys, c.qk_head_dim)
    return q, k, draw.normal(s.batch, heads, s.keys, c.v_head_dim), s.span, c.qk_head_dim**-0.5, None


def _mqa(s: OpShape, draw: Draw) -> Inputs:
    c = s.config
    width = c.kv_lora_rank + c.qk_rope_head_dim
    q = draw.normal(s.batch, s.tokens, c.num_attention_heads, width)
    return q, draw.normal(s.batch, s.keys, width), s.span, width**-0.5, c.kv_lora_rank


def _mqa_sparse(s: OpShape, draw: Draw) -> Inputs:
    q, rows, span, scale, width = _mqa(s, draw)
    return q, rows, draw.selection(span, s.selected), scale, width


def _index(s: OpShape, draw: Draw) -> Inputs:
    c = s.config
    q = draw.normal(s.batch, s.tokens, c.index_n_heads, c.index_head_dim)
    weights = draw.normal(s.batch, s.tokens, c.index_n_heads)
    return q, weights, draw.normal(s.batch, s.keys, c.index_head_dim), s.span


def _select(s: OpShape, draw: Draw) -> Inputs:
    scores = draw.normal(s.batch, s.tokens, s.keys)
    return scores.masked_fill(~s.span.visible(draw.device), -torch.inf), s.selected


def _experts(s: OpShape, draw: Draw) -> Inputs:
    c, tokens = s.config, s.batch * s.tokens
    order = draw.normal(tokens, c.n_routed_experts).argsort(-1)
    experts = order[:, : c.num_experts_per_tok].contiguous()
    weights = draw.normal(tokens, c.num_experts_per_tok).softmax(-1)
    gate_up = draw.weight(c.n_routed_experts, 2 * c.moe_intermediate_size, c.hidden_size)
    down = draw.weight(c.n_routed_experts, c.hidden_size, c.moe_intermediate_size)
    return draw.normal(tokens, c.hidden_size), experts, weights, gate_up, down


def _linear(s: OpShape, draw: Draw) -> Inputs:
    rows, columns = s.matrix()
    return draw.normal(s.batch * s.tokens, columns), draw.weight(rows, columns)


def _copy(s: OpShape, draw: Draw) -> Inputs:
    return (torch.empty(COPY_BYTES[torch.device(draw.device).type] // 4, device=draw.device).normal_(),)


def _quantise(s: OpShape, draw: Draw) -> Inputs:
    return draw.normal(s.batch * s.tokens, s.config.hidden_size), 128, True


def _latents(s: OpShape, draw: Draw) -> Inputs:
    width = s.config.kv_lora_rank + s.config.qk_rope_head_dim
    return draw.normal(s.batch, s.tokens, width), s.config.kv_lora_rank, True


def _packed(s: OpShape, draw: Draw) -> Inputs:
    latent, rope = s.config.kv_lora_rank, s.config.qk_rope_head_dim
    width = latent_row_bytes(latent, rope)
    bits = torch.randint(56, (s.batch, s.keys, width), generator=draw.generator, device=draw.device, dtype=torch.uint8)
    return bits, latent, rope, torch.bfloat16  # bytes below 56 make small finite numbers in every format


def _index_keys(s: OpShape, draw: Draw) -> Inputs:
    return (draw.normal(s.batch, s.tokens, s.config.index_head_dim),)


CASES: dict[str, OpCase] = {
    "rms_norm": OpCase(_rms_norm, ("BT", "", "")),
    "add_rms_norm": OpCase(_add_rms_norm, ("BT", "BT", "", "")),
    "rotary": OpCase(_rotary, ("BT", "BT", "BT", "")),
    "swiglu": OpCase(_swiglu, ("BT", "BT")),
    "mha_attention": OpCase(_mha, ("BT", "B", "B", "", "", "")),
    "mqa_attention": OpCase(_mqa, ("BT", "B", "", "", "")),
    "mqa_sparse_attention": OpCase(_mqa_sparse, ("BT", "B", "BT", "", "")),
    "index_scores": OpCase(_index, ("BT", "BT", "B", "")),
    "select_topk": OpCase(_select, ("BT", "")),
    "grouped_experts": OpCase(_experts, ("M", "M", "M", "", "")),
    "quantise": OpCase(_quantise, ("M", "", "")),
    "fp8_gemm": OpCase(lambda s, draw: (*_linear(s, draw), True), ("M", "", "")),
    "fp8_grouped_experts": OpCase(lambda s, draw: (*_experts(s, draw), True), ("M", "M", "M", "", "", "")),
    "pack_latents": OpCase(_latents, ("BT", "", "")),
    "unpack_latents": OpCase(_packed, ("B", "", "", "")),
    "pack_index_keys": OpCase(_index_keys, ("BT",)),
    "fp8_index_scores": OpCase(_index, ("BT", "BT", "B", "")),
    "fp8_mqa_attention": OpCase(_mqa, ("BT", "B", "", "", "")),
    "fp8_mqa_sparse_attention": OpCase(_mqa_sparse, ("BT", "B", "BT", "", "")),
    "linear": OpCase(_linear, ("M", "")),
    "copy": OpCase(_copy, ("",)),
}
"""Operator -> its case."""

TORCH: dict[str, Callable[..., Any]] = {"linear": F.linear, "copy": torch.clone}
"""Operators that torch itself computes, whatever the kernel set."""

KEPT_WIDE = {
    "rms_norm": (1,),
    "add_rms_norm": (2,),
    "rotary": (1, 2),
    "index_scores": (1,),
    "select_topk": (0,),
    "grouped_experts": (2,),
}
"""Operator -> places of the inputs that stay in FP32 whatever the precision, as in the model."""


def prepared(operator: str, ops: Operators, inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """What the operator takes: rounded to `dtype`, or quantised where it is an FP8 one."""
    if operator in RECIPES:
        return RECIPES[operator].prepare(ops, *inputs)
    wide = torch.promote_types(dtype, torch.float32)
    kept = KEPT_WIDE.get(operator, ())
    return tuple(
        item.to(wide if place in kept else dtype) if isinstance(item, Tensor) and item.is_floating_point() else item
        for place, item in enumerate(inputs)
    )


def caller(operator: str, ops: Operators) -> Callable[..., Any]:
    """The function that `prepared` inputs go to. Raises UsageError for a fused operator that the set has not."""
    if operator in TORCH:
        return TORCH[operator]
    if operator in RECIPES:
        run = RECIPES[operator].run
        return lambda *arguments: run(ops, arguments, torch.bfloat16)
    found: Callable[..., Any] = getattr(ops, operator)
    return found


def narrowed(operator: str, inputs: Inputs, sequences: list[int], columns: slice) -> Inputs:
    """The inputs of some sequences and of some new tokens alone (of rows of M, the same share)."""
    return tuple(_part(item, axes, sequences, columns) for item, axes in zip(inputs, CASES[operator].axes, strict=True))


def _part(item: Any, axes: str, sequences: list[int], columns: slice) -> Any:
    if isinstance(item, Span):
        few = Span(tuple(item.starts[b] for b in sequences), tuple(item.ends[b] for b in sequences), item.width)
        return few.columns(columns.start, columns.stop)
    if not isinstance(item, Tensor) or not axes:
        return item
    if axes == "M":
        return item[columns]
    item = item[torch.tensor(sequences, device=item.device)]
    return item[:, columns] if axes == "BT" else item
