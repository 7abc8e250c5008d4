"""Routed experts with FP8 stacks in plain PyTorch."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from harness.contract.fp8 import BLOCK
from harness_plugins.eager_elementwise import swiglu
from harness_plugins.eager_experts import by_expert
from harness_plugins.eager_fp8 import fp8_gemm, quantise


def fp8_grouped_experts(
    x_MD: Tensor,
    experts_MA: Tensor,
    weights_MA: Tensor,
    gate_up_EXD: Tensor,
    gate_up_scales_E2fd: Tensor,
    down_EDF: Tensor,
    down_scales_Edf: Tensor,
    power_of_two: bool,
) -> Tensor:
    """See `Fp8GroupedExperts`."""
    project = partial(_project, power_of_two=power_of_two)

    def one(expert: int, x_xD: Tensor) -> Tensor:
        halves = zip(gate_up_EXD[expert].chunk(2), gate_up_scales_E2fd[expert], strict=True)
        gate_xF, up_xF = (project(x_xD, weight_FD, scales_fd) for weight_FD, scales_fd in halves)
        return project(swiglu(gate_xF, up_xF), down_EDF[expert], down_scales_Edf[expert])

    return by_expert(one, x_MD, experts_MA, weights_MA, gate_up_EXD.shape[0])


def _project(x_MK: Tensor, weight_NK: Tensor, scales_nk: Tensor, power_of_two: bool) -> Tensor:
    values_MK, scales_Mk = quantise(x_MK, BLOCK, power_of_two)
    return fp8_gemm(values_MK, scales_Mk, weight_NK, scales_nk, x_MK.dtype)
