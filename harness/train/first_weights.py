"""What training starts from: random tensors, arranged so that attention can look things up from the first step on.

Plain normal weights spend nearly all of a short training on a plateau, answering every question with any value of the
document. After mimetic initialization (Trockman & Kolter, arXiv 2305.09828) the start has what trained models show:

- queries and keys of a head begin as the same projection, so a token attends to tokens like itself;
- values and output begin as transposes, so attending to a token copies it, and the head begins as the embedding;
- the first layer's heads look one, two or three tokens back, by the rotary part alone.

Embeddings begin at deviation 1: at a small one, the optimizer's first steps push all rarely seen tokens the same way,
further than they are apart, and a model that cannot tell names apart cannot look them up.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from harness.contract.config import ModelConfig
from harness.model.checkpoint import Tensors

CONTENT_GAIN = 1.5
"""Size of the directions that queries and keys share."""
POSITION_GAIN = 7.0
"""Size of the constant rotary part of queries and keys in the first layer: attention of about 0.9 to one place."""
POSITION_PAIRS = 4
"""Fast-turning rotary pairs that tell neighbours apart."""
LOOK_BACK = (1, 2, 1, 3)
"""How many tokens back the heads of the first layer look, in turn."""
CALM = 0.2
"""What is left of the random part of a tensor that gets a constant one."""


MIMETIC = (
    "q_a_proj.weight",
    "q_b_proj.weight",
    "kv_a_proj_with_mqa.weight",
    "kv_b_proj.weight",
    "o_proj.weight",
)


class FirstWeights(Tensors):
    """Every tensor depends on seed and name alone; norms are 1, biases 0, other matrices normal."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__(config, mtp=True)
        self.seed = seed

    def get(self, name: str) -> Tensor:
        """FP32 start of the tensor called `name` on disk."""
        if name == "model.embed_tokens.weight":
            return self._embedding()
        if name == "lm_head.weight":
            return self._plain("model.embed_tokens.weight") * self.config.initializer_range
        layer, _, attention = name.partition(".self_attn.")
        if attention in MIMETIC:
            return self._attention(layer)[attention]
        if name.endswith("bias"):
            return torch.zeros(self.shapes[name])
        if len(self.shapes[name]) == 1:
            return torch.ones(self.shapes[name])
        return self._plain(name) * self.config.initializer_range

    def _plain(self, name: str) -> Tensor:
        return torch.randn(self.shapes[name], generator=self._generator(name))

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def _embedding(self) -> Tensor:
        """Own part of every token plus one common part: what a head that goes by position alone can hold on to."""
        common_D = torch.randn(self.config.hidden_size, generator=self._generator("common part of the embedding"))
        return self._plain("model.embed_tokens.weight") + common_D

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one layer at a time is asked for, and this object is short-lived
    def _attention(self, layer: str) -> dict[str, Tensor]:
        """Projections of one layer's attention."""
        config, generator = self.config, self._generator(f"{layer}.self_attn")
        q_rank, kv_rank = config.q_lora_rank or config.hidden_size, config.kv_lora_rank
        basis = directions(max(q_rank, kv_rank), config.hidden_size, generator)
        q_a_PD, kv_a = basis[:q_rank], self._plain(f"{layer}.self_attn.kv_a_proj_with_mqa.weight")
        q_b_HQP = self._plain(f"{layer}.self_attn.q_b_proj.weight").unflatten(0, (config.num_attention_heads, -1))
        kv_b_HUC = self._plain(f"{layer}.self_attn.kv_b_proj.weight").unflatten(0, (config.num_attention_heads, -1))
        for tensor in (kv_a, q_b_HQP, kv_b_HUC):
            tensor *= config.initializer_range
        kv_a[:kv_rank] = basis[:kv_rank]
        output_DHV = self._copy(kv_b_HUC[:, config.qk_nope_head_dim :], basis[:kv_rank], generator)
        if layer == "model.layers.0":
            self._look_back(q_b_HQP, kv_a[kv_rank:], q_a_PD)
        else:
            self._look_for_alike(q_b_HQP, kv_b_HUC, generator)
        return {
            "q_a_proj.weight": q_a_PD,
            "q_b_proj.weight": q_b_HQP.flatten(0, 1),
            "kv_a_proj_with_mqa.weight": kv_a,
            "kv_b_proj.weight": kv_b_HUC.flatten(0, 1),
            "o_proj.weight": output_DHV.flatten(1),
        }

    def _copy(self, up_HVC: Tensor, down_CD: Tensor, generator: torch.Generator) -> Tensor:
        """Fill the values' up-projections, in place, and return the output [D, H, V] that transposes them."""
        for up_VC in up_HVC:
            up_VC.copy_(directions(up_VC.shape[0], up_VC.shape[1], generator))
        return torch.einsum("hvc,cd->dhv", up_HVC, down_CD)

    def _look_for_alike(self, q_b_HQP: Tensor, kv_b_HUC: Tensor, generator: torch.Generator) -> None:
        """Make queries and keys of each head, in place, the same projection of the hidden state."""
        nope, shared = self.config.qk_nope_head_dim, min(q_b_HQP.shape[-1], kv_b_HUC.shape[-1])
        for q_QP, kv_UC in zip(q_b_HQP, kv_b_HUC, strict=True):
            q_QP[:nope] = 0.0
            kv_UC[:nope] = 0.0
            q_QP[:nope, :shared] = kv_UC[:nope, :shared] = directions(nope, shared, generator) * CONTENT_GAIN

    def _look_back(self, q_b_HQP: Tensor, k_rope_RD: Tensor, q_a_PD: Tensor) -> None:
        """Turn the first layer's heads, in place, into ones that attend `LOOK_BACK` tokens before their own."""
        config, pairs = self.config, min(POSITION_PAIRS, self.config.qk_rope_head_dim // 2)
        rope, nope = config.qk_rope_head_dim, config.qk_nope_head_dim
        hidden_VD = normed(self._embedding())
        hidden_D, latent_P = hidden_VD.mean(0), normed(hidden_VD @ q_a_PD.T).mean(0)
        theta = config.rope.rope_theta ** (-torch.arange(0, rope, 2) / rope)[:pairs]
        even = torch.arange(0, 2 * pairs, 2)
        key_R = torch.zeros(rope)
        key_R[even] = POSITION_GAIN
        k_rope_RD[: 2 * pairs] *= CALM
        k_rope_RD += torch.outer(key_R, hidden_D / hidden_D.square().sum())
        for head in range(config.num_attention_heads):
            back = LOOK_BACK[head % len(LOOK_BACK)]
            query_R = torch.zeros(rope)
            query_R[even], query_R[even + 1] = torch.cos(back * theta), -torch.sin(back * theta)
            q_b_HQP[head] *= CALM
            q_b_HQP[head, nope:] += torch.outer(query_R * POSITION_GAIN, latent_P / latent_P.square().sum())


def directions(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random [rows, columns] whose shorter side is orthonormal."""
    tall = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), generator=generator))[0]
    return tall if rows >= columns else tall.T.contiguous()


def normed(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, with weight 1."""
    return x * x.square().mean(-1, keepdim=True).rsqrt()
