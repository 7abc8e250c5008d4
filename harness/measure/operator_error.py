"""How far an FP8 operator is from the truth, and how much farther than BF16 is: errors by operator, without a model.

Every operator is run from inputs in FP32 or wider, which each side rounds itself: the FP8 side to BF16 and then to
E4M3, BF16's own side to BF16. `harness.contract.operators` says what the slots do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.contract.fp8 import BLOCK
from harness.contract.fp8_tensors import calc_diff, quantise_blocks
from harness.contract.operators import Operators

Prepared = tuple[Any, ...]


@dataclass(frozen=True)
class OperatorError:
    """Errors of one call. `diff` is `calc_diff`, about half the squared relative L2 norm; `rel_l2` that norm."""

    diff: float
    """Against FP64 on the inputs themselves: what quantising cost, and what the kernel added."""
    exact_diff: float
    """Against FP64 on the quantised inputs: what the kernel added."""
    rel_l2: float
    """Of the first kind."""
    bf16_rel_l2: float
    """The same of the BF16 operator."""
    overlap: float | None = None
    """Index scores alone: share of the keys that the true scores select which these select too."""

    @property
    def ratio(self) -> float:
        """Error as a multiple of BF16's own."""
        return self.rel_l2 / self.bf16_rel_l2


@dataclass(frozen=True)
class Recipe:
    """How a slot is run from inputs in full precision."""

    prepare: Callable[..., Prepared]
    """(operators, *inputs) -> what the slot takes."""
    run: Callable[[Operators, Prepared, torch.dtype], Tensor]
    """The slot on that; activations and accumulation in the dtype given."""
    plain: Callable[..., Tensor]
    """(eager operators, dtype, *inputs) -> the unquantised operator in that dtype."""


def operator_error(
    ops: Operators, eager: Operators, slot: str, inputs: Prepared, select: int | None = None
) -> OperatorError:
    """Errors of `ops`' FP8 `slot`, one of RECIPES, on `inputs` (tensors in FP32 or wider; see the recipe's `plain`).

    `select` is how many keys are selected by index scores, for `overlap`. Raises KeyError for another slot.
    """
    recipe = RECIPES[slot]
    prepared = recipe.prepare(ops, *inputs)
    given = recipe.run(ops, prepared, torch.bfloat16)
    exact = recipe.run(eager, prepared, torch.float64)
    truth = recipe.plain(eager, torch.float64, *inputs)
    own = recipe.plain(eager, torch.bfloat16, *inputs)
    overlap = None if select is None else selection_overlap(eager, given, truth, select)
    given, exact, own, truth = (part.double().masked_fill(truth.isneginf(), 0) for part in (given, exact, own, truth))
    return OperatorError(
        calc_diff(given, truth), calc_diff(given, exact), relative_l2(given, truth), relative_l2(own, truth), overlap
    )


def relative_l2(given: Tensor, wanted: Tensor) -> float:
    """|given - wanted| / |wanted| in FP64."""
    return float((given.double() - wanted.double()).norm() / wanted.double().norm())


def selection_overlap(eager: Operators, scores_BTS: Tensor, true_BTS: Tensor, count: int) -> float:
    """Share of the keys with the `count` highest true scores that are among those with the highest given ones.

    Scores are -inf where a key is not seen. Rows are weighted by how many keys they select.
    """
    given_BTS, wanted_BTS = (_chosen(eager, scores, count) for scores in (scores_BTS, true_BTS))
    return float((given_BTS & wanted_BTS).sum() / wanted_BTS.sum())


def _chosen(eager: Operators, scores_BTS: Tensor, count: int) -> Tensor:
    """bool [B, T, S]: which keys are selected."""
    selected_BTK = eager.select_topk(scores_BTS, min(count, scores_BTS.shape[-1]))
    chosen_BTS = torch.zeros(
        *scores_BTS.shape[:-1], scores_BTS.shape[-1] + 1, dtype=torch.bool, device=scores_BTS.device
    )
    return chosen_BTS.scatter(-1, selected_BTK % chosen_BTS.shape[-1], True)[..., :-1]  # -1 marks the column behind


# --- recipes: the inputs are those of `plain` -----------------------------------------------------------


def _gemm_inputs(ops: Operators, x_MK: Tensor, weight_NK: Tensor, power_of_two: bool) -> Prepared:
    weight = quantise_blocks(weight_NK.bfloat16(), power_of_two)
    return (*ops.quantise(x_MK.bfloat16(), BLOCK, power_of_two), weight.values, weight.scales)


def _gemm(ops: Operators, prepared: Prepared, dtype: torch.dtype) -> Tensor:
    x_MK, x_scales_Mk, weight_NK, weight_scales_nk = prepared
    return ops.fp8_gemm(x_MK, x_scales_Mk, weight_NK, weight_scales_nk, dtype)


def _plain_gemm(eager: Operators, dtype: torch.dtype, x_MK: Tensor, weight_NK: Tensor, power_of_two: bool) -> Tensor:
    return F.linear(x_MK.to(dtype), weight_NK.to(dtype))


def _experts_inputs(
    ops: Operators,
    x_MD: Tensor,
    experts_MA: Tensor,
    weights_MA: Tensor,
    gate_up_EXD: Tensor,
    down_EDF: Tensor,
    power_of_two: bool,
) -> Prepared:
    gate_up = [[quantise_blocks(half.bfloat16(), power_of_two) for half in both.chunk(2)] for both in gate_up_EXD]
    down = [quantise_blocks(each.bfloat16(), power_of_two) for each in down_EDF]
    return (
        x_MD.bfloat16(),
        experts_MA,
        weights_MA.float(),
        torch.stack([torch.cat([half.values for half in both]) for both in gate_up]),
        torch.stack([torch.stack([half.scales for half in both]) for both in gate_up]),
        torch.stack([each.values for each in down]),
        torch.stack([each.scales for each in down]),
        power_of_two,
    )


def _experts(ops: Operators, prepared: Prepared, dtype: torch.dtype) -> Tensor:
    return ops.fp8_grouped_experts(prepared[0].to(dtype), *prepared[1:])


def _plain_experts(
    eager: Operators,
    dtype: torch.dtype,
    x_MD: Tensor,
    experts_MA: Tensor,
    weights_MA: Tensor,
    gate_up_EXD: Tensor,
    down_EDF: Tensor,
    power_of_two: bool,
) -> Tensor:
    return eager.grouped_experts(x_MD.to(dtype), experts_MA, weights_MA, gate_up_EXD.to(dtype), down_EDF.to(dtype))


def _scores_inputs(ops: Operators, q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Any) -> Prepared:
    return q_BTGI.bfloat16(), weights_BTG.float(), ops.pack_index_keys(k_BSI.bfloat16()), span


def _scores(ops: Operators, prepared: Prepared, dtype: torch.dtype) -> Tensor:
    return ops.fp8_index_scores(prepared[0].to(dtype), *prepared[1:])


def _plain_scores(
    eager: Operators, dtype: torch.dtype, q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Any
) -> Tensor:
    return eager.index_scores(
        q_BTGI.to(dtype), weights_BTG.to(torch.promote_types(dtype, torch.float32)), k_BSI.to(dtype), span
    )


def _attention_inputs(ops: Operators, q_BTHL: Tensor, rows_BSL: Tensor, *rest: Any) -> Prepared:
    """`rest` ends in scale and value width."""
    return q_BTHL.bfloat16(), ops.pack_latents(rows_BSL.bfloat16(), rest[-1], True), *rest


def _attention(slot: str) -> Callable[[Operators, Prepared, torch.dtype], Tensor]:
    """The fused slot where there is one, else the plain one over unpacked rows, as the form does it."""

    def run(ops: Operators, prepared: Prepared, dtype: torch.dtype) -> Tensor:
        q_BTHL, packed_BSP, *rest = prepared
        fused = ops.fused.get(f"fp8_{slot}")
        if fused is not None:
            return fused(q_BTHL.to(dtype), packed_BSP, *rest)
        width = rest[-1]
        rows_BSL = ops.unpack_latents(packed_BSP, width, q_BTHL.shape[-1] - width, dtype)
        return getattr(ops, slot)(q_BTHL.to(dtype), rows_BSL, *rest)

    return run


def _plain_attention(slot: str) -> Callable[..., Tensor]:
    def plain(eager: Operators, dtype: torch.dtype, q_BTHL: Tensor, rows_BSL: Tensor, *rest: Any) -> Tensor:
        return getattr(eager, slot)(q_BTHL.to(dtype), rows_BSL.to(dtype), *rest)

    return plain


def _attention_recipe(slot: str) -> Recipe:
    return Recipe(_attention_inputs, _attention(slot), _plain_attention(slot))


RECIPES: dict[str, Recipe] = {
    "fp8_gemm": Recipe(_gemm_inputs, _gemm, _plain_gemm),
    "fp8_grouped_experts": Recipe(_experts_inputs, _experts, _plain_experts),
    "fp8_index_scores": Recipe(_scores_inputs, _scores, _plain_scores),
    "fp8_mqa_attention": _attention_recipe("mqa_attention"),
    "fp8_mqa_sparse_attention": _attention_recipe("mqa_sparse_attention"),
}
"""Slot -> recipe. Inputs, in order: (x [M, K], weight [N, K], power_of_two); (x, experts, weights, gate_up, down,
power_of_two) as `GroupedExperts`; those of `IndexScores`, `MqaAttention` and `MqaSparseAttention`."""
