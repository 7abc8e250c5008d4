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
    from harness.contract.operators import Operators
    from harness_plugins import eager_attention, eager_elementwise, eager_experts, eager_index

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
    )
