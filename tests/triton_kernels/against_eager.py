"""A Triton kernel against `eager` in FP64 on the same inputs: what the conformance kit does, with other shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch
from harness_plugins.triton_kernels.operators import operators

from harness.check.operator_calls import Call, Draw
from harness.check.operator_checks import check_slot
from harness.contract.operators import Operators
from harness.contract.registry import Registry

DTYPES = pytest.mark.parametrize("dtype", ["fp32", "bf16"])
"""Precisions in which kernels are tested; what is allowed stands in `harness/check/tolerances.py`."""


def require_equal_to_eager(
    slot: str, calls: Iterable[Call], dtype: str, device: str, candidate: Operators | None = None
) -> None:
    """Every call, with outputs that start as NaN; raises FaultError with the figure and what is allowed.

    `candidate` is the kernel set that is asked, `triton` when none is given. Also holds: no NaN in any
    result, inputs as they were, and bitwise the same result again.
    """
    eager = Registry(entry_points=False).option("kernels", "eager").load()

    def given(_: Draw) -> Iterator[Call]:
        yield from calls

    given.__name__ = slot
    with poisoned_memory():
        check_slot(given, candidate or operators(), eager, dtype, device)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors are NaN (integers their largest value): what a kernel does not write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
