"""What a device can do at most, measured in the same worker as everything that is held against it.

A large copy says how many bytes a second its memory moves (bytes read and bytes written), a large square matrix product
of random numbers how many operations its matrix units do in a format. Datasheets promise more than either.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.measure.op_cases import COPY_BYTES
from harness.measure.op_clock import OpClock

SIDE = {"cuda": 8192, "cpu": 512}
"""Rows and columns of the matrix product."""
TIMES = 7


@dataclass
class Ceilings:
    """Measured once for each thing that is asked."""

    device: str
    clock: OpClock
    _bandwidth: float | None = None
    _flops: dict[str, float | None] = field(default_factory=dict)

    def bandwidth(self) -> float:
        """Bytes a second of a large copy, read and written bytes both counted."""
        if self._bandwidth is None:
            size = COPY_BYTES[self._kind]
            source = torch.empty(size // 4, device=self.device).normal_()
            target = torch.empty_like(source)
            self._bandwidth = 2 * size / self._seconds(lambda: target.copy_(source))
        return self._bandwidth

    def flops(self, products: str, dtype: torch.dtype) -> float | None:
        """Operations a second of a large matrix product in `dtype`, or in E4M3 for `fp8`; None without such units."""
        name = products or str(dtype).removeprefix("torch.")
        if name not in self._flops:
            self._flops[name] = self._fp8() if products == "fp8" else self._product(dtype)
        return self._flops[name]

    def facts(self) -> dict[str, float]:
        """What was measured so far, for a record's context."""
        rates = {f"{name}_tflops": rate / 1e12 for name, rate in self._flops.items() if rate is not None}
        return rates | ({"copy_gbps": self._bandwidth / 1e9} if self._bandwidth else {})

    @property
    def _kind(self) -> str:
        return torch.device(self.device).type

    def _product(self, dtype: torch.dtype) -> float:
        side = SIDE[self._kind]
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        return 2 * side**3 / self._seconds(lambda: left @ right)

    def _fp8(self) -> float | None:
        """Of torch's own product with one scale each; None where this torch or device has none."""
        side = SIDE[self._kind]
        left, right = (torch.randn(side, side, device=self.device).to(torch.float8_e4m3fn) for _ in range(2))
        one = torch.ones((), device=self.device)

        def product() -> torch.Tensor:
            return torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

        if self._kind != "cuda" or torch.cuda.get_device_capability(self.device) < (8, 9):
            return None
        return 2 * side**3 / self._seconds(product)

    def _seconds(self, call: Callable[[], Any]) -> float:
        """Median time of the call, after two that do not count."""
        times = [self.clock.warm(call) for _ in range(TIMES + 2)][2:]
        return statistics.median(times) / 1e3
