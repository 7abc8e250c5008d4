"""The kernel set `triton`: which function fills which slot of the operator table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from harness.contract.compiling import KernelBuild
from harness.contract.fp8 import MATRIX_UNITS
from harness.contract.operators import FP8_FUSED, FP8_PRODUCTS, NOT_SLOTS, Operators
from harness_plugins.triton_kernels import (
    expert_blocks,
    fp8_gemm,
    fp8_grouped_experts,
    fp8_index_scores,
    fp8_mqa_attention,
    fp8_mqa_sparse_attention,
    grouped_experts,
    index_scores,
    merge_splits,
    mha_attention,
    mqa_attention,
    mqa_sparse_attention,
    pack_index_keys,
    pack_latents,
    quantise,
    rms_norm,
    rotary,
    select_topk,
    swiglu,
)
from harness_plugins.triton_kernels.launch import Capability, interpreted

MODULES = (
    rms_norm,
    rotary,
    swiglu,
    mha_attention,
    mqa_attention,
    mqa_sparse_attention,
    merge_splits,
    index_scores,
    select_topk,
    expert_blocks,
    grouped_experts,
    quantise,
    fp8_gemm,
    fp8_grouped_experts,
    pack_latents,
    pack_index_keys,
    fp8_index_scores,
    fp8_mqa_attention,
    fp8_mqa_sparse_attention,
)
"""Every module with kernels; each offers `builds(capability)`."""


def operators() -> Operators:
    """A Triton kernel in every slot."""
    return Operators(
        name="triton",
        rms_norm=rms_norm.rms_norm,
        add_rms_norm=rms_norm.add_rms_norm,
        rotary=rotary.rotary,
        swiglu=swiglu.swiglu,
        mha_attention=mha_attention.mha_attention,
        mqa_attention=mqa_attention.mqa_attention,
        mqa_sparse_attention=mqa_sparse_attention.mqa_sparse_attention,
        index_scores=index_scores.index_scores,
        select_topk=select_topk.select_topk,
        grouped_experts=grouped_experts.grouped_experts,
        quantise=quantise.quantise,
        fp8_gemm=fp8_gemm.fp8_gemm,
        fp8_grouped_experts=fp8_grouped_experts.fp8_grouped_experts,
        pack_latents=pack_latents.pack_latents,
        unpack_latents=pack_latents.unpack_latents,
        pack_index_keys=pack_index_keys.pack_index_keys,
        fp8_index_scores=fp8_index_scores.fp8_index_scores,
        fused={
            "fp8_mqa_attention": fp8_mqa_attention.fp8_mqa_attention,
            "fp8_mqa_sparse_attention": fp8_mqa_sparse_attention.fp8_mqa_sparse_attention,
        },
        builds=builds,
        remarks=remarks,
    )


def remarks(capability: Capability | None) -> Mapping[str, str]:
    """Every slot when interpreted; FP8 products where the hardware has no units for them."""
    if interpreted():
        slots = [slot.name for slot in dataclasses.fields(Operators) if slot.name not in NOT_SLOTS]
        return dict.fromkeys((*slots, *FP8_FUSED), "interpreted")
    return {} if capability is None or capability >= MATRIX_UNITS else dict.fromkeys(FP8_PRODUCTS, "emulated")


def builds(capability: Capability) -> Sequence[KernelBuild]:
    """Every kernel and configuration that this set would use on hardware of `capability`."""
    return [build for module in MODULES for build in module.builds(capability)]
