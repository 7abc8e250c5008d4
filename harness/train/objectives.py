"""What training minimises: the language-model loss, that of predicting further ahead, the experts' balance, and the
indexer's imitation of attention.

The indexer's target is the main attention summed over heads and normalised, p; its prediction is the softmax of its
scores, I; its loss KL(p || softmax(I)) per query (DeepSeek-V3.2-Exp report, section 2.2). In the sparse stage both
are restricted to the selected keys. The indexer's inputs are detached, so the model learns nothing from this loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.model.attention import Attention, Projected
from harness.model.moe import Moe, Routing
from harness.model.mtp import look_ahead
from harness.model.observation import IndexerView, view_indexer
from harness.model.transformer import CausalLm, Observer


def language_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token."""
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def mtp_loss(
    model: CausalLm, hidden_BTD: Tensor, inputs_BT: Tensor, targets_BT: Tensor, observer: Observer | None = None
) -> Tensor:
    """Mean over depths k of the cross-entropy of token t + k + 1 (DeepSeek-V3 report, equations 24 and 25).

    `hidden_BTD` is what `model.hidden` makes of the inputs; `targets_BT` are the next tokens of the main model.
    """
    ahead = look_ahead(model, hidden_BTD, inputs_BT, observer)
    losses = [language_loss(logits_BTV, targets_BT[:, depth:]) for depth, logits_BTV in enumerate(ahead, 1)]
    return torch.stack(losses).mean()


@dataclass
class Watcher:
    """Sees a forward pass (`harness.model.transformer.Observer`) and keeps what the losses need."""

    sequences: int
    """B, to tell the sequences of flattened tokens apart."""
    watch_indexer: bool
    sparse: bool = False
    """KL over the selected keys alone."""
    counts: dict[int, Tensor] = field(default_factory=dict)
    """Tokens per expert [E] of every mixture layer."""
    balance: list[Tensor] = field(default_factory=list)
    divergence: list[Tensor] = field(default_factory=list)

    def attention(self, layer: int, attention: Attention, projected: Projected) -> None:
        """Compare a layer's indexer with its attention."""
        if self.watch_indexer:
            self.divergence.append(indexer_divergence(view_indexer(attention, projected, self.sparse)))

    def routing(self, layer: int, routing: Routing) -> None:
        """Count a layer's experts."""
        self.counts[layer] = routing.counts()
        self.balance.append(sequence_balance(routing, self.sequences))


def sequence_balance(routing: Routing, sequences: int) -> Tensor:
    """Sequence-wise balance loss: mean over sequences of sum_e f_e P_e (DeepSeek-V3 report, equations 17 to 20).

    1 when every expert is used evenly, up to E / A when the same A are always chosen.
    """
    experts = routing.scores_ME.shape[-1]
    affinity_BTE = (routing.scores_ME / routing.scores_ME.sum(-1, keepdim=True)).unflatten(0, (sequences, -1))
    chosen_BTE = F.one_hot(routing.experts_MA, experts).sum(1).unflatten(0, (sequences, -1))
    share_BE = chosen_BTE.float().mean(1) * experts / routing.experts_MA.shape[-1]
    return (share_BE * affinity_BTE.mean(1)).sum(-1).mean()


@torch.no_grad()
def update_biases(model: CausalLm, counts: dict[int, Tensor], speed: float) -> None:
    """Move every correction bias against its expert's load (arXiv 2408.15664, algorithm 1)."""
    for layer, counts_E in counts.items():
        mixture = model.get_submodule(f"model.layers.{layer}.mlp")
        assert isinstance(mixture, Moe)
        load_E = counts_E.float()
        mixture.gate.e_score_correction_bias.add_(torch.sign(load_E.mean() - load_E), alpha=speed)


def indexer_divergence(view: IndexerView) -> Tensor:
    """Mean over queries of KL(p || softmax(I)) in nats, over the keys that the target covers."""
    covered_BTS, target_BTS = view.selected_BTS, view.target_BTS
    predicted_BTS = view.scores_BTS.masked_fill(~covered_BTS, -torch.inf).log_softmax(-1)
    # A key that is not covered has target 0 and log-probability -inf: their product has to be 0, not NaN.
    predicted_BTS = predicted_BTS.masked_fill(~covered_BTS, 0.0)
    return (torch.xlogy(target_BTS, target_BTS) - target_BTS * predicted_BTS).sum(-1).mean()
