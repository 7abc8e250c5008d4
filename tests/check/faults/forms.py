"""Forms of attention: a sound twin of `mqa`, and one planted fault each."""

from __future__ import annotations

from dataclasses import replace

from harness.contract import Option, hookimpl

NAMES = {
    "sound": "mqa, without chunks",
    "scales-wrongly": "without YaRN's factor in the softmax scale",
    "forgets-the-selection": "every key, whatever the selector says",
    "remembers-keys": "stale: latent rows of an earlier call of the same shape",
}


def _factory(name):
    def load():
        import torch

        from harness.contract.attention import Form

        class Absorbed(Form):
            def __init__(self):
                self.name, self.rows = name, {}

            def attend(self, call):
                rows_BSL = call.keys.latent_rows(call.span.end)
                if name == "remembers-keys":
                    rows_BSL = self.rows.setdefault(tuple(rows_BSL.shape), rows_BSL.clone())
                if name == "scales-wrongly":
                    call = replace(call, scale=(call.q_nope_BTHN.shape[-1] + call.q_rope_BTHR.shape[-1]) ** -0.5)
                selected_BTK = call.select(slice(None), call.span)
                width = call.key_up_HNC.shape[-1]
                q_BTHC = torch.einsum("bthn,hnc->bthc", call.q_nope_BTHN, call.key_up_HNC)
                q_BTHL = torch.cat([q_BTHC, call.q_rope_BTHR], -1)
                if selected_BTK is None or name == "forgets-the-selection":
                    out_BTHC = call.ops.mqa_attention(q_BTHL, rows_BSL, call.span, call.scale, width)
                else:
                    out_BTHC = call.ops.mqa_sparse_attention(q_BTHL, rows_BSL, selected_BTK, call.scale, width)
                return torch.einsum("bthc,hvc->bthv", out_BTHC, call.value_up_HVC)

        return Absorbed()

    return load


def _needs_latents(query):
    reasons = [] if query.variant.engine == "native" else ["only engine native takes forms"]
    return reasons + (
        ["reads latents, which cache expanded does not keep"] if query.variant.cache == "expanded" else []
    )


@hookimpl
def harness_options():
    return [Option("form", name, _factory(name), summary, _needs_latents) for name, summary in NAMES.items()]
