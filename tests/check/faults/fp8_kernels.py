"""Kernel sets that are `eager` with one FP8 slot replaced: a sound twin, and one planted fault each."""

from __future__ import annotations

from dataclasses import replace

from harness.contract import Option, hookimpl


def _sound():
    """Another program for the same product: dequantised operands, one product in FP32."""
    from harness.contract.fp8_tensors import BlockScaled

    def fp8_gemm(x_MK, x_scales_Mk, weight_NK, weight_scales_nk, dtype):
        x = BlockScaled(x_MK, x_scales_Mk, (1, 128)).dense()
        return (x @ BlockScaled(weight_NK, weight_scales_nk).dense().T).to(dtype)

    return {"fp8_gemm": fp8_gemm}


def _rounds_towards_zero(x, group, power_of_two):
    """Quantisation is biased: magnitudes are cut, not rounded."""
    import torch
    from harness_plugins.eager_fp8 import quantise

    values, scales = quantise(x, group, power_of_two)
    wide = scales.repeat_interleave(group, -1)[..., : x.shape[-1]]
    over = values.float().abs() > (x.float() / wide).abs()
    smaller = (values.view(torch.uint8) - over.to(torch.uint8)).view(torch.float8_e4m3fn)
    return smaller, scales


def _drops_a_scale(x_MK, x_scales_Mk, weight_NK, weight_scales_nk, dtype):
    """All rows of activations are multiplied with the first one's scales."""
    from harness_plugins.eager_fp8 import fp8_gemm

    return fp8_gemm(x_MK, x_scales_Mk[:1].expand_as(x_scales_Mk), weight_NK, weight_scales_nk, dtype)


def _turns_the_blocks(x_MK, x_scales_Mk, weight_NK, weight_scales_nk, dtype):
    """The scales of weights are read column by column."""
    from harness_plugins.eager_fp8 import fp8_gemm

    turned = weight_scales_nk.T.reshape(weight_scales_nk.shape)
    return fp8_gemm(x_MK, x_scales_Mk, weight_NK, turned, dtype)


def _takes_the_gates_scales(x, experts, weights, gate_up, gate_up_scales, down, down_scales, power_of_two):
    """The up-projection is multiplied with the gate's scales."""
    from harness_plugins.eager_fp8_experts import fp8_grouped_experts

    wrong = gate_up_scales[:, :1].expand_as(gate_up_scales)
    return fp8_grouped_experts(x, experts, weights, gate_up, wrong, down, down_scales, power_of_two)


def _rotary_key_first(rows_BTL, latent, power_of_two):
    """The bytes of the rotary key stand before those of the latent."""
    import torch
    from harness_plugins.eager_fp8_packing import pack_latents

    packed = pack_latents(rows_BTL, latent, power_of_two)
    rope = 2 * (rows_BTL.shape[-1] - latent)
    return torch.cat([packed[..., packed.shape[-1] - rope :], packed[..., : packed.shape[-1] - rope]], -1)


def _one_scale_for_all(packed_BSP, latent, rope, dtype):
    """Every tile is multiplied with the first tile's scale."""
    from harness_plugins.eager_fp8_packing import unpack_latents

    changed = packed_BSP.clone()
    for first in range(latent + 4, latent + 4 * -(-latent // 128), 4):
        changed[..., first : first + 4] = packed_BSP[..., latent : latent + 4]
    return unpack_latents(changed, latent, rope, dtype)


def _does_not_rotate(keys_BTI):
    """Keys are stored as they are, while queries are rotated."""
    from harness_plugins.eager_fp8_packing import pack_index_keys

    from harness.contract.fp8_tensors import hadamard_rotated

    return pack_index_keys(hadamard_rotated(keys_BTI.float()))


def _forgets_the_keys_scales(q_BTGI, weights_BTG, packed_BSP, span):
    """Scores are those of the E4M3 values."""
    import torch
    from harness_plugins.eager_fp8_index import fp8_index_scores

    unscaled = packed_BSP.clone()
    unscaled[..., -4:] = torch.ones(1).view(torch.uint8)
    return fp8_index_scores(q_BTGI, weights_BTG, unscaled, span)


def _sees_the_future(q_BTHL, packed_BSP, span, scale, value_width):
    """Every query sees what the last one sees."""
    import torch
    from harness_plugins.eager_fp8_attention import fp8_mqa_attention

    from harness.contract.span import Span

    later = Span(tuple(end - 1 for end in span.ends), span.ends, 1)
    whole = [fp8_mqa_attention(q_BTHL[:, t : t + 1], packed_BSP, later, scale, value_width) for t in range(span.width)]
    return torch.cat(whole, 1)


def _takes_none_for_the_first_key(q_BTHL, packed_BSP, selected_BTK, scale, value_width):
    """-1 in a selection is read as position 0."""
    from harness_plugins.eager_fp8_attention import fp8_mqa_sparse_attention

    return fp8_mqa_sparse_attention(q_BTHL, packed_BSP, selected_BTK.clamp(min=0), scale, value_width)


FAULTS = {
    "rounds-towards-zero": ("quantise", _rounds_towards_zero),
    "drops-a-scale": ("fp8_gemm", _drops_a_scale),
    "turns-the-blocks": ("fp8_gemm", _turns_the_blocks),
    "takes-the-gates-scales": ("fp8_grouped_experts", _takes_the_gates_scales),
    "rotary-key-first": ("pack_latents", _rotary_key_first),
    "one-scale-for-all": ("unpack_latents", _one_scale_for_all),
    "does-not-rotate": ("pack_index_keys", _does_not_rotate),
    "forgets-the-keys-scales": ("fp8_index_scores", _forgets_the_keys_scales),
    "sees-the-future": ("fp8_mqa_attention", _sees_the_future),
    "takes-none-for-the-first-key": ("fp8_mqa_sparse_attention", _takes_none_for_the_first_key),
}
"""Name -> the slot, and what fills it."""


def _factory(name):
    def load():
        from harness.contract.operators import reference_operators

        eager = reference_operators()
        if name == "sound":
            return replace(eager, name=name, **_sound())
        slot, function = FAULTS[name]
        if slot in eager.fused:
            return replace(eager, name=name, fused={**eager.fused, slot: function})
        return replace(eager, name=name, **{slot: function})

    return load


@hookimpl
def harness_options():
    summaries = {name: function.__doc__ for name, (_, function) in FAULTS.items()} | {"sound": _sound.__doc__}
    return [Option("kernels", name, _factory(name), text, unsupported=_only_native) for name, text in summaries.items()]


def _only_native(query):
    return [] if query.variant.engine == "native" else ["these kernels fill the operator table of engine native"]
