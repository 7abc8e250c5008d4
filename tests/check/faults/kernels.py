"""Kernel sets that are `eager` with one operator replaced: a sound twin, and one planted fault each."""

from __future__ import annotations

from dataclasses import replace

from harness.contract import Option, hookimpl


def _sound():
    """Another program for the same operator: softmax written out."""
    import torch

    def mqa_sparse_attention(q_BTHL, rows_BSL, selected_BTK, scale, value_width):
        batch = torch.arange(rows_BSL.shape[0])[:, None, None]
        rows_BTKL = rows_BSL[batch, selected_BTK.clamp(min=0)]
        scores = torch.einsum("bthl,btkl->bthk", q_BTHL.float(), rows_BTKL.float()) * scale
        scores = scores.masked_fill((selected_BTK < 0)[:, :, None], -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        return torch.einsum("bthk,btkc->bthc", weights, rows_BTKL[..., :value_width].float()).to(q_BTHL.dtype)

    return {"mqa_sparse_attention": mqa_sparse_attention}


def _sees_the_future():
    """Wrong mask: every query sees one key too many."""
    from dataclasses import replace as changed

    from harness_plugins.eager_attention import mqa_attention

    def shifted(q_BTHL, rows_BSL, span, scale, value_width):
        if span.width == 1:
            return mqa_attention(q_BTHL, rows_BSL, span, scale, value_width)
        later = changed(span, starts=tuple(min(s + 1, e - 1) for s, e in zip(span.starts, span.ends, strict=True)))
        return mqa_attention(q_BTHL, rows_BSL, later, scale, value_width)

    return {"mqa_attention": shifted}


def _ignores_positions():
    """Nothing is rotated, only brought into split layout."""
    import torch

    def rotary(x, cos, sin, interleaved):
        return torch.cat([x[..., 0::2], x[..., 1::2]], -1) if interleaved else x.clone()

    return {"rotary": rotary}


def _turns_the_wrong_way():
    """Positions count, and distances too, but backwards."""
    from harness_plugins.eager_elementwise import rotary

    return {"rotary": lambda x, cos, sin, interleaved: rotary(x, cos, -sin, interleaved)}


def _rotates_the_wrong_layout():
    """Interleaved input is taken for split input."""
    from harness_plugins.eager_elementwise import rotary

    return {"rotary": lambda x, cos, sin, interleaved: rotary(x, cos, sin, False)}


def _multiplies_masked_rows():
    """NaN: rows behind a sequence get weight zero, but take part in the product."""
    import torch

    def mqa_attention(q_BTHL, rows_BSL, span, scale, value_width):
        rows_BSL = rows_BSL[:, : span.end]
        scores = torch.einsum("bthl,bsl->bths", q_BTHL, rows_BSL).float() * scale
        scores = scores.masked_fill(~span.visible(q_BTHL.device)[:, :, None], -torch.inf)
        weights = scores.softmax(-1).to(q_BTHL.dtype)
        return torch.einsum("bths,bsc->bthc", weights, rows_BSL[..., :value_width])

    return {"mqa_attention": mqa_attention}


def _answers_in_float32():
    """Wrong dtype: BF16 in, FP32 out."""
    import torch.nn.functional as F

    return {"swiglu": lambda gate, up: F.silu(gate.float()) * up.float()}


def _breaks_ties_upwards():
    """Of equal scores the highest position is taken."""
    from harness_plugins.eager_index import select_topk

    def highest_first(scores_BTS, count):
        import torch

        chosen = select_topk(scores_BTS.flip(-1), count)
        mirrored = torch.where(chosen < 0, chosen, scores_BTS.shape[-1] - 1 - chosen)
        none_last = torch.where(mirrored < 0, scores_BTS.shape[-1], mirrored).sort(-1).values
        return torch.where(none_last == scores_BTS.shape[-1], -1, none_last)

    return {"select_topk": highest_first}


def _writes_into_its_input():
    """The sum of the residual is left in the caller's tensor."""
    from harness_plugins.eager_elementwise import rms_norm

    def add_rms_norm(x, residual, weight, eps):
        residual += x
        return rms_norm(residual, weight, eps), residual.clone()

    return {"add_rms_norm": add_rms_norm}


def _drops_an_expert():
    """The last chosen expert of every token is left out."""
    from harness_plugins.eager_experts import grouped_experts

    def fewer(x_MD, experts_MA, weights_MA, gate_up_EXD, down_EDF):
        kept = max(1, experts_MA.shape[1] - 1)
        return grouped_experts(x_MD, experts_MA[:, :kept], weights_MA[:, :kept], gate_up_EXD, down_EDF)

    return {"grouped_experts": fewer}


def _is_not_deterministic():
    """Sums in a random order, as atomic additions do."""
    import torch
    from harness_plugins.eager_elementwise import rms_norm

    def noisy(x, weight, eps):
        return rms_norm(x, weight, eps) * (1 + 1e-7 * torch.randn(()).to(x.dtype))

    return {"rms_norm": noisy}


def _selects_nothing():
    """Attention over expanded heads takes every key, selected or not."""
    from harness_plugins.eager_attention import mha_attention

    return {"mha_attention": lambda q, k, v, span, scale, selected: mha_attention(q, k, v, span, scale, None)}


def _takes_none_for_the_first_key():
    """-1 in a selection is read as position 0."""
    from harness_plugins.eager_attention import mqa_sparse_attention

    return {
        "mqa_sparse_attention": lambda q, rows, selected, scale, width: mqa_sparse_attention(
            q, rows, selected.clamp(min=0), scale, width
        )
    }


def _scores_without_relu():
    """Index heads may vote against a key."""
    import torch

    def index_scores(q_BTGI, weights_BTG, k_BSI, span):
        per_head = torch.einsum("btgi,bsi->btgs", q_BTGI.float(), k_BSI[:, : span.end].float().nan_to_num())
        scores = torch.einsum("btg,btgs->bts", weights_BTG, per_head)
        return scores.masked_fill(~span.visible(scores.device), -torch.inf)

    return {"index_scores": index_scores}


OPTIONS = {
    "sound": _sound,
    "sees-the-future": _sees_the_future,
    "ignores-positions": _ignores_positions,
    "turns-the-wrong-way": _turns_the_wrong_way,
    "rotates-the-wrong-layout": _rotates_the_wrong_layout,
    "multiplies-masked-rows": _multiplies_masked_rows,
    "answers-in-float32": _answers_in_float32,
    "breaks-ties-upwards": _breaks_ties_upwards,
    "writes-into-its-input": _writes_into_its_input,
    "drops-an-expert": _drops_an_expert,
    "is-not-deterministic": _is_not_deterministic,
    "selects-nothing": _selects_nothing,
    "takes-none-for-the-first-key": _takes_none_for_the_first_key,
    "scores-without-relu": _scores_without_relu,
}


def _factory(name):
    def load():
        from harness.contract.operators import reference_operators

        return replace(reference_operators(), name=name, **OPTIONS[name]())

    return load


@hookimpl
def harness_options():
    return [
        Option("kernels", name, _factory(name), OPTIONS[name].__doc__, unsupported=_only_native) for name in OPTIONS
    ]


def _only_native(query):
    return [] if query.variant.engine == "native" else ["these kernels fill the operator table of engine native"]
