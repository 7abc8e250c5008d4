"""Engine `hf`: a `Runner` over transformers' causal language models and their `DynamicCache`.

Sequences of equal length run without any mask, as in transformers' own examples, and this is the path that is
timed. Sequences of different lengths share one cache whose padded columns are masked out, with explicit
positions, as `generate` does for a padded batch: the state remembers which columns hold a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import transformers
from transformers import DynamicCache

from harness.contract import ModelConfig
from harness.contract.runner import EngineRequest, Runner, State, module_bytes
from harness.contract.synthetic import INDEX_KEY, LATENT, ROPE_KEY, synthetic_field
from harness.errors import UsageError
from harness_plugins.hf_model import load_model


def build(request: EngineRequest) -> HfRunner:
    """The engine factory. Raises UsageError when the checkpoint does not fit the model."""
    return HfRunner(load_model(request), request)


class HfState(State):
    """A `DynamicCache`: tensors [B, columns, width] a layer, regrown by concatenation at every call.

    `live_BS` (bool) marks the columns that hold a token of their sequence; the others are padding. It and
    `lengths_B` stay on the CPU, so that no call waits for the device.
    """

    def __init__(self, model: transformers.PreTrainedModel, config: ModelConfig, batch: int, max_len: int) -> None:
        self.model = model
        self.config = config
        self.max_len = max_len
        self.cache = DynamicCache(config=model.config)
        self.lengths_B = torch.zeros(batch, dtype=torch.int64)
        self.live_BS = torch.ones(batch, 0, dtype=torch.bool)

    @property
    def uniform(self) -> bool:
        """True while no column is padding: all sequences have the same length, and no mask is needed."""
        return bool(self.live_BS.all())

    @property
    def sparse(self) -> bool:
        """True when the model runs its indexer, and so caches index keys."""
        return "indexed_attention" in (getattr(self.model.config, "layer_types", None) or ())

    @property
    def bytes(self) -> int:
        """Bytes of the storage behind the cached tensors; 0 before the first token."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.storage())

    @property
    def bytes_per_token(self) -> int:
        """Latent, rotary key and, with an indexer in use, index key, over all layers."""
        width = self.config.kv_lora_rank + self.config.qk_rope_head_dim
        width += self.config.index_head_dim if self.sparse else 0
        return self.config.num_hidden_layers * width * self.model.dtype.itemsize

    def truncate(self, lengths_B: Sequence[int] | torch.Tensor) -> None:
        """Mask what is forgotten, and crop the columns at the end that no sequence uses any more."""
        kept_B = torch.as_tensor(lengths_B, dtype=torch.int64).cpu()
        if kept_B.shape != self.lengths_B.shape or bool(((kept_B > self.lengths_B) | (kept_B < 0)).any()):
            raise ValueError(f"cannot truncate sequences of {self.lengths_B.tolist()} tokens to {kept_B.tolist()}")
        live_BS = self.live_BS & (self.live_BS.cumsum(1) <= kept_B[:, None])
        used = max((int(column) + 1 for column in live_BS.any(0).nonzero()[-1:]), default=0)
        self.cache.crop(used - live_BS.shape[1])
        self.lengths_B, self.live_BS = kept_B.clone(), live_BS[:, :used]

    def fill_random(self, seed: int, length: int) -> None:
        """Put the content of `harness.contract.synthetic` into a fresh cache, in transformers' layout."""
        if length > self.max_len:
            raise ValueError(f"a state of {self.max_len} tokens cannot be filled with {length}")
        self.cache = DynamicCache(config=self.model.config)
        for layer in range(self.config.num_hidden_layers):
            latents_BSC = self._synthetic(seed, layer, LATENT, length, self.config.kv_lora_rank)
            rope_BSR = self._synthetic(seed, layer, ROPE_KEY, length, self.config.qk_rope_head_dim)
            if self.config.model_type == "deepseek_v2":  # the one class that caches the pairs interleaved
                rope_BSR = rope_BSR.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
            self.cache.update(latents_BSC[:, None], rope_BSR[:, None], layer)
            if self.sparse:
                index_BSI = self._synthetic(seed, layer, INDEX_KEY, length, self.config.index_head_dim)
                self.cache.update_indexer(index_BSI, layer)
        self.lengths_B = torch.full_like(self.lengths_B, length)
        self.live_BS = torch.ones(len(self.lengths_B), length, dtype=torch.bool)

    def append(self, new_BT: torch.Tensor) -> None:
        """Note that a call has appended columns, of which `new_BT` (bool) hold tokens."""
        self.live_BS = torch.cat([self.live_BS, new_BT], dim=1)
        self.lengths_B = self.lengths_B + new_BT.sum(1)

    def _synthetic(self, seed: int, layer: int, field: str, length: int, width: int) -> torch.Tensor:
        """One field in the model's dtype and on its device, the same rows for every sequence: [B, length, width]."""
        rows_SW = synthetic_field(seed, layer, field, 0, length, width).to(self.model.device, self.model.dtype)
        return rows_SW.repeat(len(self.lengths_B), 1, 1)

    def storage(self) -> Iterator[torch.Tensor]:
        """The cached tensors of all layers; none before the first token, since they grow."""
        for layer in self.cache.layers:
            for name in ("keys", "values", "indexer_keys"):
                if getattr(layer, name, None) is not None:
                    yield getattr(layer, name)


class HfRunner(Runner):
    """transformers' model behind the harness's outer contract; logits are float32 whatever the model computes in."""

    def __init__(self, model: transformers.PreTrainedModel, request: EngineRequest) -> None:
        self.model = model
        self.config = request.config
        self.device = request.device

    def new_state(self, batch: int, max_len: int) -> HfState:
        """An empty `DynamicCache`, which grows: `max_len` is only a limit here."""
        self._check_length(max_len)
        if batch < 1 or max_len < 1:
            raise UsageError(f"a state needs at least one sequence and one token, not batch {batch}, max_len {max_len}")
        return HfState(self.model, self.config, batch, max_len)

    @torch.inference_mode()
    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """Append a chunk; only the last real token's hidden state goes through the head."""
        if not isinstance(state, HfState):
            raise UsageError(f"an hf runner needs a state from its own new_state, not a {type(state).__name__}")
        real_BT = _real_columns(tokens_BT, lengths_B)
        tokens_BT = tokens_BT[:, : real_BT.shape[1]].to(self.device)
        self._check_room(state, real_BT)
        if state.uniform and bool(real_BT.all()):
            logits_B1V = self.model(tokens_BT, past_key_values=state.cache, use_cache=True, logits_to_keep=1).logits
            state.append(real_BT)
            return logits_B1V[:, -1].float()
        return self._padded(tokens_BT, state, real_BT)

    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        """A prefill of one token per sequence."""
        return self.prefill(tokens_B[:, None], state)

    @torch.inference_mode()
    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """One call without a cache: padding on the right is in the future of every real token, so no mask is needed."""
        _real_columns(tokens_BT, lengths_B)
        self._check_length(tokens_BT.shape[1])
        return self.model(tokens_BT.to(self.device), use_cache=False).logits.float()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's parameters and buffers."""
        return module_bytes(self.model)

    def resolved(self) -> dict[str, str]:
        """Class, attention and expert implementation, and how unequal lengths are run."""
        config = self.model.config
        return {
            "model": f"transformers {transformers.__version__} {type(self.model).__name__}",
            "attention": config._attn_implementation,
            "experts": config._experts_implementation,
            "ragged": "one cache with masked padding columns",
        }

    def _padded(self, tokens_BT: torch.Tensor, state: HfState, real_BT: torch.Tensor) -> torch.Tensor:
        """Append tokens of which some columns, or some columns before them, are padding."""
        mask_BS = torch.cat([state.live_BS, real_BT], dim=1)
        positions_BT = state.lengths_B[:, None] + torch.arange(real_BT.shape[1])
        hidden_BTD = self.model.model(
            tokens_BT,
            attention_mask=mask_BS.to(self.device),
            position_ids=positions_BT.to(self.device),
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state
        state.append(real_BT)
        last_B = (real_BT.sum(1) - 1).clamp(min=0).to(self.device)
        hidden_BD = hidden_BTD[torch.arange(len(last_B), device=self.device), last_B]
        return self.model.lm_head(hidden_BD).float()

    def _check_length(self, length: int) -> None:
        limit = self.config.max_position_embeddings
        if length > limit:
            raise UsageError(f"{length} tokens do not fit this model: max_position_embeddings is {limit}")

    def _check_room(self, state: HfState, real_BT: torch.Tensor) -> None:
        """Raise UsageError for another batch size, or when a sequence would outgrow the state."""
        if len(real_BT) != len(state.lengths_B):
            raise UsageError(f"a state for {len(state.lengths_B)} sequences got tokens for {len(real_BT)}")
        wanted_B = state.lengths_B + real_BT.sum(1)
        if int(wanted_B.max()) > state.max_len:
            raise UsageError(f"a state of {state.max_len} tokens cannot hold {wanted_B.tolist()}")


def _real_columns(tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None) -> torch.Tensor:
    """bool [B, T'] on the CPU: which columns are tokens; columns that are padding in every row are dropped.

    Raises UsageError for a sequence without tokens, or with more than there are columns.
    """
    batch, columns = tokens_BT.shape
    counts = [columns] * batch if lengths_B is None else [int(count) for count in lengths_B]
    if columns == 0 or len(counts) != batch or not all(1 <= count <= columns for count in counts):
        raise UsageError(f"{batch} sequences of {columns} columns cannot have {counts} tokens; allowed: 1 to {columns}")
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]
