"""How a check ends, and the one way in which checks compare numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.check.tolerances import Tolerance


class FaultError(Exception):
    """The check found a fault; the message says which, with the figure and what was allowed."""


class NotApplicableError(Exception):
    """The check has nothing to say about this subject; the message is the reason."""


def require(holds: bool, message: str) -> None:
    """Raise FaultError with `message` unless `holds`."""
    if not holds:
        raise FaultError(message)


def require_equal(given: Tensor, wanted: Tensor, what: str) -> None:
    """Bitwise equality of shape, dtype and values (NaN equals nothing)."""
    require_like(given, wanted, what)
    require(torch.equal(given, wanted), f"{what}: not bitwise equal in {int((given != wanted).sum())} values")


def require_close(given: Tensor, wanted: Tensor, allowed: Tolerance, what: str) -> None:
    """Relative L2 of every row (last dimension) within `allowed`; raises FaultError for other shapes and for NaN."""
    require(given.shape == wanted.shape, f"{what}: shape {tuple(given.shape)}, expected {tuple(wanted.shape)}")
    require(bool(given.isfinite().all()), f"{what}: {int((~given.isfinite()).sum())} values are NaN or infinite")
    if not given.numel():
        return
    errors = relative_errors(given, wanted)
    typical, worst = float(errors.median()), float(errors.max())
    if (typical > allowed.typical and len(errors) >= allowed.rows) or worst > allowed.worst:
        raise FaultError(
            f"{what}: relative L2 error {typical:.1e} (median row), {worst:.1e} (worst row); "
            f"allowed {allowed.typical:.0e} and {allowed.worst:.0e} ({allowed.reason})"
        )


def require_like(given: Tensor, wanted: Tensor, what: str) -> None:
    """The same shape and dtype."""
    require(given.shape == wanted.shape, f"{what}: shape {tuple(given.shape)}, expected {tuple(wanted.shape)}")
    require(given.dtype == wanted.dtype, f"{what}: dtype {given.dtype}, expected {wanted.dtype}")


def relative_errors(given: Tensor, wanted: Tensor) -> Tensor:
    """FP64 [rows]: |given - wanted| / |wanted| of every row, the norms being L2 over the last dimension."""
    given, wanted = given.double().flatten(0, -2), wanted.double().flatten(0, -2)
    return (given - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-30)
