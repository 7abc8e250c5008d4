"""Names of the operators that a workload can ask for, torch-free; `harness.contract.operators` says what each does."""

from __future__ import annotations

SLOTS = (
    "rms_norm",
    "add_rms_norm",
    "rotary",
    "swiglu",
    "mha_attention",
    "mqa_attention",
    "mqa_sparse_attention",
    "index_scores",
    "select_topk",
    "grouped_experts",
    "quantise",
    "fp8_gemm",
    "fp8_grouped_experts",
    "pack_latents",
    "unpack_latents",
    "pack_index_keys",
    "fp8_index_scores",
)
"""Slots of the operator table, in its order."""

FUSED = ("fp8_mqa_attention", "fp8_mqa_sparse_attention")
"""Known names in `Operators.fused`."""

OPERATORS = (*SLOTS, *FUSED)

CEILINGS = ("copy", "linear")
"""Torch's own copy and matrix product: what others are held against. They are no slots."""

WEIGHTS = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of a layer, by the names that checkpoints give them, that a product can be measured with."""
