"""Kernels `eager`: every operator in plain PyTorch, the reference that every other kernel set is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.contract import Option, Query, hookimpl


@hookimpl
def harness_options() -> Sequence[Option]:
    """The kernel set `eager`."""
    return [
        Option(
            axis="kernels",
            name="eager",
            factory=_operators,
            summary="plain PyTorch operators, the reference; any device",
            unsupported=_unsupported,
        )
    ]


def _unsupported(query: Query) -> Sequence[str]:
    engine = query.variant.engine
    return () if engine == "native" else [f"kernels eager fill the operator table of engine native, not of {engine}"]


def _operators() -> Any:
    from harness.contract.operators import FP8_PRODUCTS, Operators
    from harness_plugins import (
        eager_attention,
        eager_elementwise,
        eager_experts,
        eager_fp8,
        eager_fp8_attention,
        eager_fp8_experts,
        eager_fp8_index,
        eager_fp8_packing,
        eager_index,
    )

    return Operators(
        name="eager",
        rms_norm=eager_elementwise.rms_norm,
        add_rms_norm=eager_elementwise.add_rms_norm,
        rotary=eager_elementwise.rotary,
        swiglu=eager_elementwise.swiglu,
        mha_attention=eager_attention.mha_attention,
        mqa_attention=eager_attention.mqa_attention,
        mqa_sparse_attention=eager_attention.mqa_sparse_attention,
        index_scores=eager_index.index_scores,
        select_topk=eager_index.select_topk,
        grouped_experts=eager_experts.grouped_experts,
        quantise=eager_fp8.quantise,
        fp8_gemm=eager_fp8.fp8_gemm,
        fp8_grouped_experts=eager_fp8_experts.fp8_grouped_experts,
        pack_latents=eager_fp8_packing.pack_latents,
        unpack_latents=eager_fp8_packing.unpack_latents,
        pack_index_keys=eager_fp8_packing.pack_index_keys,
        fp8_index_scores=eager_fp8_index.fp8_index_scores,
        fused={
            "fp8_mqa_attention": eager_fp8_attention.fp8_mqa_attention,
            "fp8_mqa_sparse_attention": eager_fp8_attention.fp8_mqa_sparse_attention,
        },
        # Products of E4M3 values run in FP32 here whatever the device has.
        remarks=lambda capability: dict.fromkeys(FP8_PRODUCTS, "emulated"),
    )
