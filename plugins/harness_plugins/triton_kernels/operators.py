"""The kernel set `triton`: which function fills which slot of the operator table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.contract.compiling import KernelBuild
from harness.contract.operators import Operators, reference_operators
from harness_plugins.triton_kernels import (
    expert_blocks,
    fp8_gemm,
    grouped_experts,
    index_scores,
    merge_splits,
    mqa_attention,
    mqa_sparse_attention,
    quantise,
    rms_norm,
    rotary,
    swiglu,
)
from harness_plugins.triton_kernels.launch import Capability

MODULES = (
    rms_norm,
    rotary,
    swiglu,
    mqa_attention,
    mqa_sparse_attention,
    merge_splits,
    index_scores,
    expert_blocks,
    grouped_experts,
    quantise,
    fp8_gemm,
)
"""Every module with kernels; each offers `builds(capability)`."""


def operators() -> Operators:
    """A Triton kernel in every slot."""
    return dataclasses.replace(
        reference_operators(),
        name="triton",
        rms_norm=rms_norm.rms_norm,
        add_rms_norm=rms_norm.add_rms_norm,
        rotary=rotary.rotary,
        swiglu=swiglu.swiglu,
        mqa_attention=mqa_attention.mqa_attention,
        mqa_sparse_attention=mqa_sparse_attention.mqa_sparse_attention,
        index_scores=index_scores.index_scores,
        grouped_experts=grouped_experts.grouped_experts,
        quantise=quantise.quantise,
        fp8_gemm=fp8_gemm.fp8_gemm,
        builds=builds,
    )


def builds(capability: Capability) -> Sequence[KernelBuild]:
    """Every kernel and configuration that this set would use on hardware of `capability`."""
    return [build for module in MODULES for build in module.builds(capability)]
