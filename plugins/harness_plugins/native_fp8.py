"""The precisions `fp8` and `fp8_ue8m0`: E4M3 matrix products with block scales, everything else in BF16 and FP32.

As in the DeepSeek-V3 report, arXiv 2412.19437, section 3.3: weights have a scale per 128 x 128 block, activations one
per 1 x 128 tile, made when they are used; embedding, output head, router, norms, attention core and the indexer's
head weights stay as they are in BF16. With `fp8_ue8m0` every scale is a power of two, as in V3.1 and V3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.contract.fp8 import BLOCK, blocks
from harness.contract.fp8_tensors import BlockScaled, are_powers_of_two, quantise_blocks
from harness.contract.operators import Operators
from harness.contract.precision import Precision, StoredWeight
from harness.errors import UsageError


@dataclass(frozen=True)
class Fp8(Precision):
    """See the module."""

    power_of_two: bool
    """Whether all scales are powers of two."""

    @property
    def slots(self) -> Collection[str]:
        """See `Precision.slots`."""
        return ("quantise", "fp8_gemm", "fp8_grouped_experts")

    def linear(self, in_features: int, out_features: int, bias: bool = False, *, ops: Operators) -> nn.Module:
        """See `Precision.linear`."""
        return Fp8Linear(in_features, out_features, bias, self, ops)

    def experts(self, count: int, hidden: int, width: int, ops: Operators) -> nn.Module:
        """See `Precision.experts`."""
        return Fp8Experts(count, hidden, width, self, ops)

    def dense_weight(self, layer: nn.Module) -> Tensor:
        """Dequantised to BF16 on first use, and kept."""
        assert isinstance(layer, Fp8Linear)
        return layer.dense()


class Fp8Linear(nn.Module):
    """A projection with an E4M3 weight [O, I] and FP32 scales [ceil(O/128), ceil(I/128)]."""

    kept: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool, precision: Fp8, ops: Operators) -> None:
        super().__init__()
        self.weight = _empty(torch.float8_e4m3fn, out_features, in_features)
        self.weight_scale_inv = _empty(torch.float32, blocks(out_features), blocks(in_features))
        self.bias = _empty(precision.dtype, out_features) if bias else None
        self.register_buffer("kept", None, persistent=False)
        self.precision, self.ops = precision, ops

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        x_MI = x.reshape(-1, x.shape[-1])
        values_MI, scales_Mi = self.ops.quantise(x_MI, BLOCK, self.precision.power_of_two)
        out_MO = self.ops.fp8_gemm(values_MI, scales_Mi, self.weight, self.weight_scale_inv, x.dtype)
        return (out_MO if self.bias is None else out_MO + self.bias).view(*x.shape[:-1], -1)

    def store(self, weight: StoredWeight, device: str) -> None:
        """See `StoresWeight.store`."""
        scaled = block_scaled(weight, device, self.precision.power_of_two)
        assert scaled.values.shape == self.weight.shape, f"{tuple(scaled.values.shape)}, not {tuple(self.weight.shape)}"
        self.weight, self.weight_scale_inv = _parameter(scaled.values), _parameter(scaled.scales)

    def dense(self) -> Tensor:
        """The weight that the products compute with, dequantised: BF16 [O, I]."""
        if self.kept is None:
            self.kept = BlockScaled(self.weight, self.weight_scale_inv).dense().to(self.precision.dtype)
        return self.kept


class Fp8Experts(nn.Module):
    """Routed experts as E4M3 stacks: [E, 2F, D] (gate rows first) and [E, D, F], with scales as the slot has them."""

    def __init__(self, count: int, hidden: int, width: int, precision: Fp8, ops: Operators) -> None:
        super().__init__()
        fp8, fp32 = torch.float8_e4m3fn, torch.float32
        self.gate_up_proj = _empty(fp8, count, 2 * width, hidden)
        self.gate_up_proj_scale_inv = _empty(fp32, count, 2, blocks(width), blocks(hidden))
        self.down_proj = _empty(fp8, count, hidden, width)
        self.down_proj_scale_inv = _empty(fp32, count, blocks(hidden), blocks(width))
        self.precision, self.ops = precision, ops

    def forward(self, x_MD: Tensor, experts_MA: Tensor, weights_MA: Tensor) -> Tensor:
        """As `PlainExperts.forward`."""
        gate_up = (self.gate_up_proj, self.gate_up_proj_scale_inv)
        down = (self.down_proj, self.down_proj_scale_inv)
        return self.ops.fp8_grouped_experts(x_MD, experts_MA, weights_MA, *gate_up, *down, self.precision.power_of_two)

    def store_expert(self, stack: str, expert: int, parts: Sequence[StoredWeight], device: str) -> None:
        """See `StoresExperts.store_expert`."""
        for name in (stack, f"{stack}_scale_inv"):
            empty: Tensor = getattr(self, name)
            if empty.is_meta:
                setattr(self, name, _parameter(torch.empty(empty.shape, dtype=empty.dtype, device=device)))
        scaled = [block_scaled(part, device, self.precision.power_of_two) for part in parts]
        getattr(self, stack)[expert] = torch.cat([part.values for part in scaled])
        scales: Tensor = getattr(self, f"{stack}_scale_inv")
        scales[expert] = torch.stack([part.scales for part in scaled]).view(scales.shape[1:])


def block_scaled(weight: StoredWeight, device: str, power_of_two: bool) -> BlockScaled:
    """A stored weight in blocks of 128 x 128 on a device.

    FP8 weights are taken as they are; only where scales must be powers of two and are not, they are quantised anew,
    from the numbers that they mean. Raises UsageError for FP8 weights in other blocks.
    """
    if isinstance(weight, Tensor):
        return quantise_blocks(weight.to(device), power_of_two)
    if weight.block != (BLOCK, BLOCK):
        raise UsageError(other_blocks(weight.block))
    moved = BlockScaled(weight.values.to(device), weight.scales.to(device, torch.float32))
    if power_of_two and not are_powers_of_two(moved.scales):
        return quantise_blocks(moved.dense(), power_of_two)
    return moved


def other_blocks(block: tuple[int, int]) -> str:
    """Why FP8 weights in such blocks cannot be multiplied as they are."""
    found = f"{block[0]} x {block[1]}"
    return f"FP8 products take weights in blocks of {BLOCK} x {BLOCK}, and these have {found}; precision bf16 takes any"


def _empty(dtype: torch.dtype, *shape: int) -> nn.Parameter:
    return _parameter(torch.empty(shape, dtype=dtype, device="meta"))


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


FP8 = Fp8("fp8", torch.bfloat16, power_of_two=False)
FP8_UE8M0 = Fp8("fp8_ue8m0", torch.bfloat16, power_of_two=True)
