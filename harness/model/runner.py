"""The engine `native`: a model under one variant, ready to be measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.contract.config import ModelConfig
from harness.contract.runner import EngineRequest, Runner, State, module_bytes
from harness.contract.span import Span
from harness.errors import UsageError
from harness.model.build import build_model
from harness.model.checkpoint import open_tensors
from harness.model.layers import Parts
from harness.model.state import NativeState
from harness.model.transformer import CausalLm

SCORE_LOGITS = 1 << 25
"""Logits held at one time while scoring (128 MiB in FP32)."""


def build(request: EngineRequest) -> NativeRunner:
    """The engine factory. Raises UsageError when the checkpoint does not fit its config."""
    parts = request.parts
    chosen = Parts(
        form=parts["form"],  # type: ignore[arg-type]
        selector=parts["selector"],  # type: ignore[arg-type]
        precision=parts["precision"],  # type: ignore[arg-type]
        cache=parts["cache"],  # type: ignore[arg-type]
        ops=parts["kernels"],  # type: ignore[arg-type]
    )
    tensors = open_tensors(request.checkpoint, request.config, request.seed)
    return NativeRunner(build_model(request.config, chosen, tensors, request.device))


class NativeRunner(Runner):
    """See `Runner`."""

    def __init__(self, model: CausalLm) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config: ModelConfig = model.config
        self.device = model.device

    def new_state(self, batch: int, max_len: int) -> NativeState:
        """See `Runner.new_state`."""
        limit = self.config.max_position_embeddings
        if max_len > limit:
            raise UsageError(f"{max_len} tokens do not fit this model: max_position_embeddings is {limit}")
        if batch < 1 or max_len < 1:
            raise UsageError(f"a state needs at least one sequence and one token, not batch {batch}, max_len {max_len}")
        return NativeState(self.model, batch, max_len)

    @torch.inference_mode()
    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """See `Runner.prefill`. Raises UsageError for a sequence without tokens, or more than the state holds."""
        native = _native(state)
        counts = self._counts(tokens_BT, lengths_B)
        span = native.span_of(tokens_BT.shape[1], counts)
        hidden_BTD = self.model.hidden(tokens_BT.to(self.device), span, native.caches)
        native.advance(span)
        last_B = torch.tensor(counts, device=hidden_BTD.device) - 1
        return self._logits(hidden_BTD[torch.arange(len(counts), device=hidden_BTD.device), last_B])

    @torch.inference_mode()
    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        """See `Runner.decode`."""
        native = _native(state)
        span = native.span_of(1, [1] * len(tokens_B))
        hidden_BTD = self.model.hidden(tokens_B[:, None].to(self.device), span, native.caches)
        native.advance(span)
        return self._logits(hidden_BTD[:, 0])

    @torch.inference_mode()
    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """See `Runner.logits`."""
        return self._logits(self._fresh_hidden(tokens_BT, lengths_B))

    @torch.inference_mode()
    def score(
        self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Runner.score`; holds the logits of a few positions at a time."""
        hidden_MD = self._fresh_hidden(tokens_BT, lengths_B)[:, :-1].flatten(0, 1)
        targets_M = tokens_BT[:, 1:].flatten().to(hidden_MD.device)
        chunk = max(1, SCORE_LOGITS // self.config.vocab_size)
        chosen, best = [], []
        for few_MD, target_M in zip(hidden_MD.split(chunk), targets_M.split(chunk), strict=True):
            logits_MV = self._logits(few_MD)
            chosen.append(logits_MV.gather(-1, target_M[:, None]).squeeze(-1) - logits_MV.logsumexp(-1))
            best.append(logits_MV.argmax(-1) == target_M)
        shape = (tokens_BT.shape[0], tokens_BT.shape[1] - 1)
        return torch.cat(chosen).view(shape), torch.cat(best).view(shape)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model's parameters and buffers."""
        return module_bytes(self.model)

    def resolved(self) -> dict[str, str]:
        """See `Runner.resolved`."""
        parts = self.model.parts
        added = parts.selector.cache_fields(self.config)
        used = {*parts.precision.slots, *parts.cache.slots(added)}
        on_gpu = torch.device(self.device).type == "cuda"
        capability = torch.cuda.get_device_capability(self.device) if on_gpu else None
        return parts.ops.resolved(used, capability)

    def _fresh_hidden(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None) -> torch.Tensor:
        self._counts(tokens_BT, lengths_B)
        # Through the variant's cache, as in serving: what a cache loses has to show in scores too.
        caches = self.new_state(*tokens_BT.shape).caches
        return self.model.hidden(tokens_BT.to(self.device), Span.fresh(*tokens_BT.shape), caches)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.head(hidden).float()

    def _counts(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None) -> list[int]:
        """How many tokens every sequence brings. Raises UsageError for bad lengths and ids outside the vocabulary.

        Ids that are on a GPU already are not looked at: reading them back would wait for everything before them. The
        embedding's own check ends the process there.
        """
        batch, width = tokens_BT.shape
        counts: Sequence[int] = [width] * batch if lengths_B is None else [int(n) for n in lengths_B]
        if len(counts) != batch:
            raise UsageError(f"got {len(counts)} lengths for {batch} sequences")
        if width == 0 or any(not 1 <= count <= width for count in counts):
            raise UsageError(f"every sequence needs between 1 and {width} of the {width} columns; lengths are {counts}")
        if tokens_BT.device.type == "cpu":
            self._require_known(tokens_BT)
        return list(counts)

    def _require_known(self, tokens_BT: torch.Tensor) -> None:
        low, high = int(tokens_BT.min()), int(tokens_BT.max())
        if low < 0 or high >= self.config.vocab_size:
            raise UsageError(f"token ids must be below vocab_size {self.config.vocab_size}; found {low} to {high}")


def _native(state: State) -> NativeState:
    if not isinstance(state, NativeState):
        raise UsageError(f"a native runner needs a state from its own new_state, not a {type(state).__name__}")
    return state
