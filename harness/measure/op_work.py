"""The work that cannot be avoided: operations and bytes of one call of every operator.

Operations count a multiplication and an addition as two, matrix products alone where there are any (DeepSeek-V3,
arXiv 2412.19437, and the roofline model, Williams et al. 2009, count so); causal attention counts the pairs of a query
and a key that it sees. Bytes count every input once and every output once, as if caches were perfect: the fewest that a
call can move, so that the achieved rate is a lower bound of what the memory really did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.contract.fp8 import index_key_bytes, latent_row_bytes
from harness.measure.op_cases import COPY_BYTES, OpShape

WIDE = 4
"""Bytes of an FP32 number."""


@dataclass(frozen=True)
class Work:
    """One call's operations and bytes, and in which numbers its products run (`fp8`, or that of the precision)."""

    flops: float
    bytes: float
    products: str = ""


def work_of(operator: str, shape: OpShape, itemsize: int, device: str) -> Work:
    """The work of one call; `itemsize` is the bytes of an activation."""
    if operator == "copy":
        return Work(0.0, 2.0 * COPY_BYTES[device])
    return FORMULAS[operator](shape, itemsize)


def _pairs(s: OpShape) -> float:
    """Queries times the keys that they see: T * (S - T) + T * (T + 1) / 2 a sequence."""
    return s.batch * (s.tokens * (s.keys - s.tokens) + s.tokens * (s.tokens + 1) / 2)


def _chosen(s: OpShape) -> float:
    """Queries times the keys that are selected for them."""
    first = s.keys - s.tokens
    return s.batch * float(sum(min(first + t + 1, s.selected) for t in range(s.tokens)))


def _tokens(s: OpShape) -> int:
    return s.batch * s.tokens


def _elementwise(reads: int, writes: int, width: Callable[[OpShape], int]) -> Callable[[OpShape, int], Work]:
    return lambda s, size: Work(0.0, float(_tokens(s) * width(s) * (reads + writes) * size))


def _mha(s: OpShape, size: int) -> Work:
    """Q.K over N + R and P.V over V for every head (DeepSeek-V2, arXiv 2405.04434, equations 9 to 19)."""
    c, heads = s.config, s.config.num_attention_heads
    flops = 2 * _pairs(s) * heads * (c.qk_head_dim + c.v_head_dim)
    rows = (s.batch * s.keys + _tokens(s)) * heads * (c.qk_head_dim + c.v_head_dim)
    return Work(flops, rows * size)


def _queries(s: OpShape) -> int:
    """Numbers of all absorbed queries and results: H * (L + C) a token."""
    c = s.config
    return _tokens(s) * c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)


def _absorbed(pairs: float, s: OpShape) -> float:
    """Q.K over L = C + R and P.V over C for every head (the same, section 2.1.2, weights absorbed)."""
    c = s.config
    return 2 * pairs * c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)


def _row_bytes(s: OpShape, size: int) -> int:
    return (s.config.kv_lora_rank + s.config.qk_rope_head_dim) * size


def _packed_bytes(s: OpShape) -> int:
    return latent_row_bytes(s.config.kv_lora_rank, s.config.qk_rope_head_dim)


def _mqa(s: OpShape, size: int) -> Work:
    return Work(_absorbed(_pairs(s), s), s.batch * s.keys * _row_bytes(s, size) + _queries(s) * size)


def _fp8_mqa(s: OpShape, size: int) -> Work:
    return Work(_absorbed(_pairs(s), s), s.batch * s.keys * _packed_bytes(s) + _queries(s) * size)


def _gathered(s: OpShape) -> float:
    """Rows that have to be read: every selected row once, at most all rows there are."""
    return min(_chosen(s), float(s.batch * s.keys))


def _mqa_sparse(s: OpShape, size: int) -> Work:
    indices = _tokens(s) * s.selected * 8
    return Work(_absorbed(_chosen(s), s), _gathered(s) * _row_bytes(s, size) + _queries(s) * size + indices)


def _fp8_mqa_sparse(s: OpShape, size: int) -> Work:
    indices = _tokens(s) * s.selected * 8
    return Work(_absorbed(_chosen(s), s), _gathered(s) * _packed_bytes(s) + _queries(s) * size + indices)


def _index_flops(s: OpShape) -> float:
    """A dot product over I and a weighted sum for every head (DeepSeek-V3.2-Exp report, equation 1)."""
    return 2 * _pairs(s) * s.config.index_n_heads * (s.config.index_head_dim + 1)


def _index(s: OpShape, size: int) -> Work:
    c = s.config
    heads = _tokens(s) * c.index_n_heads
    moved = s.batch * s.keys * c.index_head_dim * size + heads * (c.index_head_dim * size + WIDE)
    return Work(_index_flops(s), moved + _tokens(s) * s.keys * WIDE)


def _fp8_index(s: OpShape, size: int) -> Work:
    c = s.config
    heads = _tokens(s) * c.index_n_heads
    moved = s.batch * s.keys * index_key_bytes(c.index_head_dim) + heads * (c.index_head_dim * size + WIDE)
    return Work(_index_flops(s), moved + _tokens(s) * s.keys * WIDE, "fp8")


def _select(s: OpShape, size: int) -> Work:
    return Work(0.0, float(_tokens(s) * (s.keys * WIDE + s.selected * 8)))


def _experts_with(weight_bytes: int, products: str = "") -> Callable[[OpShape, int], Work]:
    """Three products of D x F for every token and expert (DeepSeek-V3, section 2.1.2); experts that are hit, once."""

    def work(s: OpShape, size: int) -> Work:
        c, sent = s.config, _tokens(s) * s.config.num_experts_per_tok
        matrices = 3 * c.hidden_size * c.moe_intermediate_size
        moved = min(sent, c.n_routed_experts) * matrices * (weight_bytes or size)
        return Work(2.0 * sent * matrices, moved + 2 * _tokens(s) * c.hidden_size * size, products)

    return work


def _linear(s: OpShape, size: int) -> Work:
    rows, columns = s.matrix()
    moved = (_tokens(s) * (rows + columns) + rows * columns) * size
    return Work(2.0 * _tokens(s) * rows * columns, float(moved))


def _fp8_gemm(s: OpShape, size: int) -> Work:
    rows, columns = s.matrix()
    moved = (_tokens(s) + rows) * columns + _tokens(s) * rows * size + _tokens(s) * columns // 128 * WIDE
    return Work(2.0 * _tokens(s) * rows * columns, float(moved), "fp8")


def _quantise(s: OpShape, size: int) -> Work:
    return Work(0.0, float(_tokens(s) * s.config.hidden_size * (size + 1 + WIDE / 128)))


def _pack(s: OpShape, size: int) -> Work:
    return Work(0.0, float(_tokens(s) * (_row_bytes(s, size) + _packed_bytes(s))))


def _unpack(s: OpShape, size: int) -> Work:
    return Work(0.0, float(s.batch * s.keys * (_row_bytes(s, size) + _packed_bytes(s))))


def _pack_keys(s: OpShape, size: int) -> Work:
    width = s.config.index_head_dim
    return Work(0.0, float(_tokens(s) * (width * size + index_key_bytes(width))))


FORMULAS: dict[str, Callable[[OpShape, int], Work]] = {
    "rms_norm": _elementwise(1, 1, lambda s: s.config.hidden_size),
    "add_rms_norm": _elementwise(2, 2, lambda s: s.config.hidden_size),
    "rotary": _elementwise(1, 1, lambda s: s.config.num_attention_heads * s.config.qk_rope_head_dim),
    "swiglu": _elementwise(2, 1, lambda s: s.config.intermediate_size),
    "mha_attention": _mha,
    "mqa_attention": _mqa,
    "mqa_sparse_attention": _mqa_sparse,
    "index_scores": _index,
    "select_topk": _select,
    "grouped_experts": _experts_with(0),
    "quantise": _quantise,
    "fp8_gemm": _fp8_gemm,
    "fp8_grouped_experts": _experts_with(1, "fp8"),
    "pack_latents": _pack,
    "unpack_latents": _unpack,
    "pack_index_keys": _pack_keys,
    "fp8_index_scores": _fp8_index,
    "fp8_mqa_attention": _fp8_mqa,
    "fp8_mqa_sparse_attention": _fp8_mqa_sparse,
    "linear": _linear,
}
"""Operator -> its work."""
