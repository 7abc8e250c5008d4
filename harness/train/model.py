"""The native model as training sees it: its parts per stage, its operators, its first weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from harness.contract.config import ModelConfig
from harness.contract.operators import MhaAttention, Operators
from harness.contract.registry import Registry
from harness.contract.span import Span
from harness.model.build import build_model
from harness.model.layers import Parts
from harness.model.transformer import CausalLm
from harness.train.first_weights import FirstWeights


def first_model(config: ModelConfig, seed: int, selector: str = "dense") -> CausalLm:
    """A fresh trainable model in FP32 on the CPU, with the prediction layers that its config names."""
    return build_model(config, training_parts(selector), FirstWeights(config, seed))


def training_parts(selector: str) -> Parts:
    """The MHA form, which training uses (V3.2-Exp report, appendix A), FP32, and operators that train fast."""
    registry = Registry(entry_points=False)

    def load(axis: str, name: str) -> Any:
        return registry.option(axis, name).load()

    eager: Operators = load("kernels", "eager")
    operators = replace(
        eager,
        name="training",
        rms_norm=fused_rms_norm,
        add_rms_norm=fused_add_rms_norm,
        mha_attention=whole_sequence_attention(eager.mha_attention),
    )
    return Parts(
        form=load("form", "mha"),
        selector=load("selector", selector),
        precision=load("precision", "fp32"),
        cache=load("cache", "latent"),
        ops=operators,
    )


def fused_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `harness.contract.operators.RmsNorm`; PyTorch's own, whose gradient is one pass instead of six."""
    return F.rms_norm(x, weight.shape, weight, eps)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `harness.contract.operators.AddRmsNorm`."""
    total = x + residual
    return fused_rms_norm(total, weight, eps), total


def whole_sequence_attention(chunked: MhaAttention) -> MhaAttention:
    """PyTorch's fused attention for whole sequences without a selection; `chunked` for everything else."""

    def attend(
        q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
    ) -> Tensor:
        whole = span == Span.fresh(span.batch, span.width)
        if selected_BTK is not None or not whole:
            return chunked(q_BTHQ, k_BHSQ, v_BHSV, span, scale, selected_BTK)
        width, value = q_BTHQ.shape[-1], v_BHSV.shape[-1]
        # Heads of unlike widths would fall back to a path that holds all T x T scores and takes twice the time.
        v_BHSQ = F.pad(v_BHSV, (0, max(0, width - value)))
        out = F.scaled_dot_product_attention(q_BTHQ.transpose(1, 2), k_BHSQ, v_BHSQ, is_causal=True, scale=scale)
        return out[..., :value].transpose(1, 2)

    return attend
