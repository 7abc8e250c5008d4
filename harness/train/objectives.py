"""What training minimises: the language-model loss, that of predicting further ahead, the experts' balance, and the
indexer's imitation of attention.

The indexer's target is the main attention summed over heads and normalised, p; its prediction is the softmax of its
scores, I; its loss KL(p || softmax(I)) per query (DeepSeek-V3.2-Exp report, section 2.2). In the sparse stage both
are restricted to the selected keys. The indexer's inputs are detached, so the model learns nothing from this loss.
Queries that answer a question count as much here as in the language loss: they are few, and what they miss is lost.
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
from harness.train.data import Batch
from harness.train.documents import Kind


def token_weights(kinds_BT: Tensor, answer_weight: float) -> Tensor:
    """What every target counts in the loss, FP32 [B, T]: nothing if nobody could know it, more if it is an answer."""
    weights = torch.zeros(len(Kind))
    weights[Kind.TEXT], weights[Kind.ANSWER] = 1.0, answer_weight
    return weights[kinds_BT]


def language_loss(logits_BTV: Tensor, targets_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats, times its weight, per token that counts at all."""
    if weights_BT is None:
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    nats = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    return (nats * weights_BT.flatten()).sum() / (weights_BT > 0).sum().clamp(min=1)


def mtp_loss(
    model: CausalLm,
    hidden_BTD: Tensor,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor | None = None,
    observer: Observer | None = None,
) -> Tensor:
    """Mean over depths k of the cross-entropy of token t + k + 1 (DeepSeek-V3 report, equations 24 and 25).

    `hidden_BTD` is what `model.hidden` makes of the inputs; `targets_BT` are the next tokens of the main model and
    `weights_BT` what they count.
    """
    losses = []
    for depth, logits_BTV in enumerate(look_ahead(model, hidden_BTD, inputs_BT, observer), 1):
        weights = None if weights_BT is None else weights_BT[:, depth:]
        losses.append(language_loss(logits_BTV, targets_BT[:, depth:], weights))
    return torch.stack(losses).mean()


@torch.no_grad()
def seen_by_kind(logits_BTV: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Nats per token of text, and the share of answer tokens that are the likeliest; what a batch has of them."""
    text, answers = batch.kinds_BT == Kind.TEXT, batch.kinds_BT == Kind.ANSWER
    seen = {"text": language_loss(logits_BTV, batch.targets_BT, text.float())} if text.any() else {}
    if answers.any():
        seen["answers"] = (logits_BTV[answers].argmax(-1) == batch.targets_BT[answers]).float().mean()
    return seen


@dataclass
class Watcher:
    """Sees a forward pass (`harness.model.transformer.Observer`) and keeps what the losses need."""

    sequences: int
    """B, to tell the sequences of flattened tokens apart."""
    watch_indexer: bool
    sparse: bool = False
    """KL over the selected keys alone."""
    weights_BT: Tensor | None = None
    """What every query counts in the KL; evenly if None. A prediction layer runs on the last T - depth of them."""
    counts: dict[int, Tensor] = field(default_factory=dict)
    """Tokens per expert [E] of every mixture layer."""
    balance: list[Tensor] = field(default_factory=list)
    divergence: list[Tensor] = field(default_factory=list)

    def attention(self, layer: int, attention: Attention, projected: Projected) -> None:
        """Compare a layer's indexer with its attention."""
        if self.watch_indexer:
            view = view_indexer(attention, projected, self.sparse)
            self.divergence.append(indexer_divergence(view, self.weights_BT))

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


def query_weights(kinds_BT: Tensor, answer_weight: float) -> Tensor:
    """What every query counts in the indexers' loss, FP32 [B, T]: more if it is of a fact, a question or an answer.

    Facts count because a fact that names another is where that one is looked up first.
    """
    return torch.where(kinds_BT == Kind.TEXT, 1.0, answer_weight)


def indexer_divergence(view: IndexerView, weights_BT: Tensor | None = None) -> Tensor:
    """Mean over queries of KL(p || softmax(I)) in nats, over the keys that the target covers.

    The mean is weighted by the last T of `weights_BT`, if there are any.
    """
    covered_BTS, target_BTS = view.selected_BTS, view.target_BTS
    predicted_BTS = view.scores_BTS.masked_fill(~covered_BTS, -torch.inf).log_softmax(-1)
    # A key that is not covered has target 0 and log-probability -inf: their product has to be 0, not NaN.
    predicted_BTS = predicted_BTS.masked_fill(~covered_BTS, 0.0)
    nats_BT = (torch.xlogy(target_BTS, target_BTS) - target_BTS * predicted_BTS).sum(-1)
    if weights_BT is None:
        return nats_BT.mean()
    weights_BT = weights_BT[:, -nats_BT.shape[1] :]
    return (nats_BT * weights_BT).sum() / weights_BT.sum()
