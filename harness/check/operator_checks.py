"""Checks of a kernel set, slot by slot, against `eager` in FP64 on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.check.operator_calls import CallsOfSlot, Draw
from harness.check.tolerances import for_operator
from harness.check.verdict import require, require_close, require_equal
from harness.contract.operators import Operators
from harness.contract.span import Span

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions in which operators are checked: those whose activations are of a dtype of their own."""

FP32_ARGUMENTS = {
    "rms_norm": {1},  # norm weights
    "add_rms_norm": {2},
    "rotary": {1, 2},  # tables
    "index_scores": {1},  # head weights
    "select_topk": {0},  # index scores
    "grouped_experts": {2},  # routing weights
}
"""Slot -> arguments that are FP32 in every precision."""

RESULT_DTYPES = {"index_scores": torch.float32, "select_topk": torch.int64}
"""Slots whose result is not in the dtype of the first argument."""


def check_slot(calls: CallsOfSlot, candidate: Operators, eager: Operators, precision: str, device: str) -> None:
    """Make every call of a slot in one precision; raises FaultError at the first that is wrong."""
    for call in calls(Draw(seed=7)):
        arguments = _cast(calls.__name__, call.arguments, precision, device)
        _check_call(calls.__name__, arguments, candidate, eager, f"{precision}, {call.what}", precision)


def _check_call(
    slot: str, arguments: list[Any], candidate: Operators, eager: Operators, what: str, precision: str
) -> None:
    before = [item.clone() if isinstance(item, Tensor) else item for item in arguments]
    given = _results(candidate, slot, arguments)
    for one, original in zip(arguments, before, strict=True):
        if isinstance(one, Tensor):
            require_equal(_without_nan(one), _without_nan(original), f"{what}: an input after the call")
    wanted = _results(eager, slot, [_widened(item) for item in arguments])
    require(len(given) == len(wanted), f"{what}: {len(given)} results, expected {len(wanted)}")
    dtype = RESULT_DTYPES.get(slot, arguments[0].dtype)
    real = _real_rows(arguments)
    for one, due in zip(given, wanted, strict=True):
        require(one.dtype == dtype, f"{what}: result in {one.dtype}, expected {dtype}")
        require(one.shape == due.shape, f"{what}: result of shape {tuple(one.shape)}, expected {tuple(due.shape)}")
        require(not bool(one.isnan().any()), f"{what}: NaN in the result; key rows that nobody may see are NaN here")
        _compare(slot, one[real], due[real], precision, what)
    for one, again in zip(given, _results(candidate, slot, arguments), strict=True):
        require_equal(again[real], one[real], f"{what}: the same call again")


def _compare(slot: str, given: Tensor, wanted: Tensor, precision: str, what: str) -> None:
    given, wanted = given.cpu(), wanted.cpu()
    if not given.is_floating_point():
        require_equal(given, wanted, what)
        return
    hidden = wanted.isneginf()
    require(torch.equal(given.isneginf(), hidden), f"{what}: -inf is not exactly where the reference has it")
    given, wanted = given.double().masked_fill(hidden, 0), wanted.masked_fill(hidden, 0)
    require_close(given, wanted, for_operator(slot, precision), what)


def rotary_is_relative(candidate: Operators, device: str) -> None:
    """Scores of rotated queries and keys depend on the distance of their positions, and on nothing else."""
    draw = Draw(seed=3)
    q, k = draw.normal(1, 8).float().to(device), draw.normal(1, 8).float().to(device)
    frequencies = torch.tensor([1.0, 0.3, 0.05, 0.01], device=device)
    for interleaved in (True, False):

        def rotated(x: Tensor, position: int, interleaved: bool = interleaved) -> Tensor:
            angles = position * frequencies
            return candidate.rotary(x, angles.cos(), angles.sin(), interleaved).double()

        scores = {shift: float((rotated(q, 9 + shift) * rotated(k, 2 + shift)).sum()) for shift in (0, 1, 40)}
        spread = max(scores.values()) - min(scores.values())
        require(spread < 1e-4, f"scores at equal distance differ by {spread:.1e} when both positions shift")
        turned = abs(float((rotated(q, 9) * rotated(k, 5)).sum()) - scores[0])
        require(turned > 1e-2, f"scores do not change with the distance ({turned:.1e})")


def _results(operators: Operators, slot: str, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
    given = getattr(operators, slot)(*arguments)
    return given if isinstance(given, tuple) else (given,)


def _cast(slot: str, arguments: Sequence[Any], precision: str, device: str) -> list[Any]:
    kept = FP32_ARGUMENTS.get(slot, set())
    return [
        _like(item, torch.float32 if index in kept else DTYPES[precision], device)
        for index, item in enumerate(arguments)
    ]


def _like(item: Any, dtype: torch.dtype, device: str) -> Any:
    """A tensor in another dtype on another device, still a view when it was one."""
    if not isinstance(item, Tensor):
        return item
    cast = item.to(device, dtype if item.is_floating_point() else item.dtype)
    if item.is_contiguous():
        return cast
    wide = cast.new_zeros(*cast.shape[:-1], cast.shape[-1] + 5)
    wide[..., 2:-3] = cast
    return wide[..., 2:-3]


def _widened(item: Any) -> Any:
    return item.double() if isinstance(item, Tensor) and item.is_floating_point() else item


def _without_nan(tensor: Tensor) -> Tensor:
    return tensor.nan_to_num() if tensor.is_floating_point() else tensor


def _real_rows(arguments: Sequence[Any]) -> Any:
    """Index of the query columns that are no padding, whose results are arbitrary: a mask [B, T], or everything."""
    span = next((item for item in arguments if isinstance(item, Span)), None)
    if span is None:
        return ...
    counts = [end - start for start, end in zip(span.starts, span.ends, strict=True)]
    return torch.arange(span.width) < torch.tensor(counts)[:, None]
