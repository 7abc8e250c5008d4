"""Checks of a kernel set's FP8 slots, one function per slot and of its name, against `eager` on the same operands.

Sizes cross the borders of blocks of 128 and end inside one; rows that nobody may read are NaN. The first line of a
function's docstring says what must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from harness.check.operator_calls import SPANS, Draw
from harness.check.tolerances import CALC_DIFF
from harness.check.verdict import NotApplicableError, require, require_equal, require_like
from harness.contract.fp8 import BLOCK, index_key_bytes, latent_row_bytes
from harness.contract.fp8_tensors import calc_diff, quantise_blocks
from harness.contract.operators import Operators
from harness.contract.span import Span

LATENT, ROPE, INDEX, HEADS = 160, 8, 32, 3

NAN_BYTE = 255
"""All bits set: NaN in E4M3, BF16 and FP32."""


def quantise(candidate: Operators, eager: Operators, device: str) -> None:
    """Values and scales equal the reference's, bit by bit, for whole and partial groups."""
    draw = Draw(seed=7)
    for x in (draw.view(3, 5, 300), draw.normal(1, 7), draw.normal(0, BLOCK), 1e-9 * draw.normal(2, BLOCK)):
        for dtype in (torch.bfloat16, torch.float32):
            for group, power_of_two in ((BLOCK, False), (BLOCK, True), (x.shape[-1], True)):
                cast = (x * 10 ** draw.normal(x.shape[0], *[1] * (x.ndim - 1))).to(device, dtype)
                given, wanted = (ops.quantise(cast, group, power_of_two) for ops in (candidate, eager))
                what = f"x {tuple(x.shape)} {dtype}, groups of {group}"
                require_like(given[0], wanted[0], f"{what}: values")
                require_equal(given[0].float(), wanted[0].float(), f"{what}: values")
                require_equal(given[1], wanted[1], f"{what}: scales")


def fp8_gemm(candidate: Operators, eager: Operators, device: str) -> None:
    """The block-scaled product is that of the reference in FP64, with scales that differ between blocks."""
    draw = Draw(seed=7)
    for m, n, k in ((5, 300, 400), (1, 130, 72), (0, BLOCK, BLOCK), (70, 64, 256)):
        operands = _gemm_operands(draw, m, n, k, device)
        for dtype in (torch.bfloat16, torch.float32):
            given = candidate.fp8_gemm(*operands, dtype)
            _near(given, eager.fp8_gemm(*operands, torch.float64), dtype, f"{m} x {n} x {k}, {dtype}")


def fp8_grouped_experts(candidate: Operators, eager: Operators, device: str) -> None:
    """Routed experts over E4M3 stacks equal the reference, partial blocks and experts that nobody chose included."""
    draw = Draw(seed=7)
    for tokens, chosen, width in ((7, 3, 72), (1, 1, 200), (0, 2, BLOCK)):
        experts = torch.rand(tokens, 5, generator=draw.generator).argsort(-1)[:, :chosen].to(device)
        weights = torch.rand(tokens, chosen, generator=draw.generator).to(device)
        stacks = _stacks(draw, 6, BLOCK + 64, width, device)  # expert 5 is nobody's, and its scales are NaN
        x = draw.view(tokens, BLOCK + 64).to(device)
        for power_of_two in (False, True):
            call = (experts, weights, *stacks, power_of_two)
            wanted = eager.fp8_grouped_experts(x, *call)
            for dtype, kind in ((torch.float32, "exact"), (torch.bfloat16, "experts")):
                given = candidate.fp8_grouped_experts(x.to(dtype), *call)
                _near(given, wanted, dtype, f"{tokens} tokens, {chosen} experts each, F = {width}", kind)


def pack_latents(candidate: Operators, eager: Operators, device: str) -> None:
    """Packed rows are the reference's, byte by byte."""
    draw = Draw(seed=7)
    for shape in ((2, 5), (1, 1), (1, 0)):
        for dtype in (torch.bfloat16, torch.float32):
            rows = draw.view(*shape, LATENT + ROPE).to(device, dtype)
            given = candidate.pack_latents(rows, LATENT, True)
            require_equal(given, eager.pack_latents(rows, LATENT, True), f"rows {shape} {dtype}")
            require(given.shape[-1] == latent_row_bytes(LATENT, ROPE), f"rows of {given.shape[-1]} bytes")


def unpack_latents(candidate: Operators, eager: Operators, device: str) -> None:
    """Unpacked rows are the reference's, bit by bit, also where they are a part of a longer cache."""
    packed = eager.pack_latents(Draw(seed=7).normal(2, 9, LATENT + ROPE).to(device), LATENT, True)
    for part in (packed, packed[:, :4], packed[1:, 3:4], packed[:, :0]):
        for dtype in (torch.bfloat16, torch.float32):
            given, wanted = (ops.unpack_latents(part, LATENT, ROPE, dtype) for ops in (candidate, eager))
            require_equal(given, wanted, f"{tuple(part.shape)} {dtype}")


def pack_index_keys(candidate: Operators, eager: Operators, device: str) -> None:
    """Packed index keys are rotated and scaled as the reference's; single values may round the other way."""
    draw = Draw(seed=7)
    for shape in ((2, 5), (1, 1), (1, 0)):
        keys = draw.view(*shape, INDEX).to(device, torch.bfloat16)
        given, wanted = candidate.pack_index_keys(keys), eager.pack_index_keys(keys)
        require_like(given, wanted, f"keys {shape}")
        require(given.shape[-1] == index_key_bytes(INDEX), f"keys of {given.shape[-1]} bytes")
        require_equal(given[..., INDEX:], wanted[..., INDEX:], f"scales of keys {shape}")
        _near(_values(given), _values(wanted), torch.float32, f"keys {shape}", "rotated")


def fp8_index_scores(candidate: Operators, eager: Operators, device: str) -> None:
    """Index scores over packed keys equal the reference, -inf where a query does not see a key."""
    draw = Draw(seed=7)
    for what, span in SPANS.items():
        q = draw.view(span.batch, span.width, 5, INDEX).to(device)
        weights = draw.normal(span.batch, span.width, 5).to(device).float()
        keys = eager.pack_index_keys(draw.normal(span.batch, span.end + 3, INDEX).to(device))
        packed = _unwritten(keys, span)
        given = candidate.fp8_index_scores(q.bfloat16(), weights, packed, span)
        wanted = eager.fp8_index_scores(q, weights, packed, span)
        real = _real(span, device)
        hidden = wanted.isneginf()
        require(given.dtype == torch.float32, f"{what}: scores in {given.dtype}, expected torch.float32")
        require(torch.equal(given.isneginf()[real], hidden[real]), f"{what}: -inf is not where the reference has it")
        seen, due = (scores.masked_fill(hidden, 0)[real] for scores in (given, wanted))
        _near(seen, due, torch.float32, what, "rotated")


def fp8_mqa_attention(candidate: Operators, eager: Operators, device: str) -> None:
    """Attention straight from packed rows, where the set offers it, equals the reference: causal and ragged."""
    _attention(candidate, eager, device, "fp8_mqa_attention")


def fp8_mqa_sparse_attention(candidate: Operators, eager: Operators, device: str) -> None:
    """Attention over gathered packed rows, where the set offers it, equals the reference, keys missing or not."""
    _attention(candidate, eager, device, "fp8_mqa_sparse_attention")


def _attention(candidate: Operators, eager: Operators, device: str, slot: str) -> None:
    if slot not in candidate.fused:
        raise NotApplicableError(f"kernels {candidate.name} offer no {slot}")
    draw = Draw(seed=7)
    for what, span in SPANS.items():
        q = draw.view(span.batch, span.width, HEADS, LATENT + ROPE).to(device)
        rows = eager.pack_latents(draw.normal(span.batch, span.end + 3, LATENT + ROPE).to(device), LATENT, True)
        packed = _unwritten(rows, span)
        seen = draw.selection(span, 4).to(device) if "sparse" in slot else span
        given = candidate.fused[slot](q.bfloat16(), packed, seen, 0.1, LATENT)
        wanted = eager.fused[slot](q, packed, seen, 0.1, LATENT)
        real = _real(span, device)
        _near(given[real], wanted[real], torch.bfloat16, what)


# --- operands -------------------------------------------------------------------------------------------


def _gemm_operands(draw: Draw, m: int, n: int, k: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operands whose scales differ by factors between blocks, so that a wrong one shows."""
    weight = draw.normal(n, k) * 4 ** _blockwise(draw, n)[:, None] * 4 ** _blockwise(draw, k)
    scaled = quantise_blocks(weight.to(device), power_of_two=False)
    x = (draw.normal(m, k) * 4 ** _blockwise(draw, k)).to(device)
    scales = draw.normal(m, -(-k // BLOCK)).abs().float().to(device) + 0.1
    return x.clamp(-400, 400).to(torch.float8_e4m3fn), scales, scaled.values, scaled.scales


def _blockwise(draw: Draw, size: int) -> Tensor:
    """One normal number for each block of 128, for every element."""
    return draw.normal(-(-size // BLOCK)).repeat_interleave(BLOCK)[:size]


def _stacks(draw: Draw, count: int, hidden: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gate_up = [[_weight(draw, width, hidden, device) for _ in range(2)] for _ in range(count)]
    down = [_weight(draw, hidden, width, device) for _ in range(count)]
    gate_up_scales = torch.stack([torch.stack([half[1] for half in both]) for both in gate_up])
    down_scales = torch.stack([scales for _, scales in down])
    gate_up_scales[-1], down_scales[-1] = float("nan"), float("nan")
    values = torch.stack([torch.cat([half[0] for half in both]) for both in gate_up])
    return values, gate_up_scales, torch.stack([values for values, _ in down]), down_scales


def _weight(draw: Draw, rows: int, columns: int, device: str) -> tuple[Tensor, Tensor]:
    weight = draw.normal(rows, columns) * 2 ** _blockwise(draw, rows)[:, None] * columns**-0.5
    scaled = quantise_blocks(weight.to(device), power_of_two=False)
    return scaled.values, scaled.scales


def _unwritten(packed_BSP: Tensor, span: Span) -> Tensor:
    """The same with every row at or beyond its sequence's end NaN."""
    poisoned = packed_BSP.clone()
    for b, end in enumerate(span.ends):
        poisoned[b, end:] = NAN_BYTE
    return poisoned


def _real(span: Span, device: str) -> Tensor:
    """bool [B, T]: the query columns that are no padding."""
    counts = [end - start for start, end in zip(span.starts, span.ends, strict=True)]
    return torch.arange(span.width, device=device) < torch.tensor(counts, device=device)[:, None]


def _values(packed_BSP: Tensor) -> Tensor:
    """What packed index keys stand for."""
    values_BSI = packed_BSP[..., :-4].contiguous().view(torch.float8_e4m3fn).float()
    return values_BSI * packed_BSP[..., -4:].contiguous().view(torch.float32)


def _near(given: Tensor, wanted: Tensor, dtype: torch.dtype, what: str, kind: str = "exact") -> None:
    limit, reason = CALC_DIFF[kind]
    require(given.dtype == dtype, f"{what}: result in {given.dtype}, expected {dtype}")
    require(given.shape == wanted.shape, f"{what}: shape {tuple(given.shape)}, expected {tuple(wanted.shape)}")
    require(bool(given.isfinite().all()), f"{what}: {int((~given.isfinite()).sum())} values are NaN or infinite")
    difference = calc_diff(given, wanted) if given.numel() else 0.0
    require(difference <= limit, f"{what}: calc_diff {difference:.1e}; allowed {limit:.0e} ({reason})")


Fp8Check: TypeAlias = Callable[[Operators, Operators, str], None]

FP8_CHECKS: tuple[Fp8Check, ...] = (
    quantise,
    fp8_gemm,
    fp8_grouped_experts,
    pack_latents,
    unpack_latents,
    pack_index_keys,
    fp8_index_scores,
    fp8_mqa_attention,
    fp8_mqa_sparse_attention,
)
"""All of them, in the order of the operator table."""
