"""Mixture of experts: the routers of the family, and the layer around the routed and shared experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.contract.config import ModelConfig
from harness.model.layers import Mlp, Parts, wide_parameter


@dataclass(frozen=True)
class Routing:
    """Where M tokens go: A experts each."""

    experts_MA: Tensor
    """int64, in no declared order."""
    weights_MA: Tensor
    """FP32: what every expert's output is multiplied with."""
    scores_ME: Tensor
    """FP32: every expert's affinity before correction bias and groups (softmax or sigmoid)."""

    def counts(self) -> Tensor:
        """int64 [E]: tokens per expert, what the correction bias is updated from (arXiv 2408.15664)."""
        return torch.bincount(self.experts_MA.flatten(), minlength=self.scores_ME.shape[-1])


class Router(nn.Module):
    """Affinities, group limit, top-k and weights, in FP32 whatever the precision.

    V3 (arXiv 2412.19437, equations 12 to 16): sigmoid affinities, chosen by affinity plus correction bias within the
    groups whose two best sum highest, weighted by affinity alone. V2 (arXiv 2405.04434, section 2.2): softmax
    affinities, chosen from all experts or within the groups with the best single expert.
    """

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.config = config
        self.weight = wide_parameter((config.n_routed_experts, config.hidden_size), parts)
        if config.topk_method == "noaux_tc":
            bias = torch.empty(config.n_routed_experts, dtype=parts.precision.wide, device="meta")
            self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x_MD: Tensor) -> Routing:
        """x_MD [M, D] -> where every token goes."""
        config = self.config
        logits_ME = F.linear(x_MD.to(self.weight.dtype), self.weight)
        scores_ME = logits_ME.softmax(-1) if config.scoring_func == "softmax" else logits_ME.sigmoid()
        choice_ME = self._within_groups(self._corrected(scores_ME.detach()))
        experts_MA = choice_ME.topk(config.num_experts_per_tok, sorted=False).indices
        weights_MA = scores_ME.gather(1, experts_MA)
        if config.norm_topk_prob:
            weights_MA = weights_MA / (weights_MA.sum(-1, keepdim=True) + 1e-20)
        return Routing(experts_MA, weights_MA * config.routed_scaling_factor, scores_ME)

    def _corrected(self, scores_ME: Tensor) -> Tensor:
        return scores_ME + self.e_score_correction_bias if self.config.topk_method == "noaux_tc" else scores_ME

    def _within_groups(self, choice_ME: Tensor) -> Tensor:
        """Hide the experts outside every token's `topk_group` best groups."""
        config = self.config
        if config.topk_method == "greedy" or config.n_group == config.topk_group:
            return choice_ME
        grouped_MGE = choice_ME.unflatten(-1, (config.n_group, -1))
        best = 2 if config.topk_method == "noaux_tc" else 1
        group_scores_MG = grouped_MGE.topk(best, sorted=False).values.sum(-1)
        kept_MG = torch.zeros_like(group_scores_MG, dtype=torch.bool)
        kept_MG = kept_MG.scatter(1, group_scores_MG.topk(config.topk_group, sorted=False).indices, True)
        return grouped_MGE.masked_fill(~kept_MG[..., None], -torch.inf).flatten(1)


class Moe(nn.Module):
    """Routed experts plus shared experts that every token passes."""

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.gate = Router(config, parts)
        sizes = (config.n_routed_experts, config.hidden_size, config.moe_intermediate_size)
        self.experts = parts.precision.experts(*sizes, parts.ops)
        shared = config.moe_intermediate_size * config.n_shared_experts
        self.shared_experts = Mlp(config, shared, parts) if shared else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.combine(x_BTD, self.route(x_BTD))

    def route(self, x_BTD: Tensor) -> Routing:
        """Where the B * T tokens go, in row-major order."""
        return self.gate(x_BTD.flatten(0, 1))

    def combine(self, x_BTD: Tensor, routing: Routing) -> Tensor:
        """The experts' weighted outputs under a given routing, plus the shared experts'."""
        routed_MD = self.experts(x_BTD.flatten(0, 1), routing.experts_MA, routing.weights_MA)
        routed_BTD = routed_MD.view_as(x_BTD)
        return routed_BTD if self.shared_experts is None else routed_BTD + self.shared_experts(x_BTD)
