"""A runner with a planted defect: it works longer, keeps more, or knows less than the runner that it wraps.

The slow-down is work, not sleep: small matrix products after a call, for the wanted share of the time that this very
call took, waiting for neighbours left out. On a GPU, where asking for the time of every call would slow it down, as
many products as such a call was worth when it was first seen.
"""

from __future__ import annotations

import random
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch

from harness.contract.planted import Planted
from harness.contract.runner import Runner, State
from harness.measure.clock import clock_for

SIDE = 32
"""Rows and columns of the extra products: a few microseconds each, far less than one percent of most calls."""

ROUNDS, FEWEST_ROUNDS, LONG_SECONDS = 9, 3, 0.5
"""Times that a call and some products are timed in turn to learn how many products the call is worth; the fewest of
them, once they have taken so long."""

TRIAL_PRODUCTS = 64


class PlantedRunner(Runner):
    """See `Runner`; every answer but a spoilt score is the wrapped runner's own."""

    def __init__(self, runner: Runner, planted: Planted, seed: int) -> None:
        self.runner = runner
        self.planted = planted
        self.config = runner.config
        self.device = runner.device
        self.draw = random.Random(seed)
        self.operands = [torch.full((SIDE, SIDE), 1 / SIDE, device=runner.device) for _ in range(3)]
        self.clock = clock_for(runner.device, own_time=True)  # what neighbours take from a call is none of its own
        self.now: Callable[[], float] = time.thread_time
        """Seconds that this thread has worked."""
        self.products: dict[str, int] = {}
        """Call on a GPU -> extra products that it is worth."""
        self._held: weakref.WeakKeyDictionary[State, torch.Tensor] = weakref.WeakKeyDictionary()

    def new_state(self, batch: int, max_len: int) -> State:
        """See `Runner.new_state`; the planted memory lives as long as the state."""
        state = self.runner.new_state(batch, max_len)
        if self.planted.memory_bytes:
            self._held[state] = torch.ones(self.planted.memory_bytes, dtype=torch.uint8, device=self.device)
        return state

    def prefill(self, tokens_BT: torch.Tensor, state: State, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """See `Runner.prefill`."""
        batch, length = tokens_BT.shape
        return self._longer(
            f"prefill {batch}x{length}", state, lambda: self.runner.prefill(tokens_BT, state, lengths_B)
        )

    def decode(self, tokens_B: torch.Tensor, state: State) -> torch.Tensor:
        """See `Runner.decode`."""
        return self._longer(f"decode {len(tokens_B)}", state, lambda: self.runner.decode(tokens_B, state))

    def replayed_decode(self, state: State) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """See `Runner.replayed_decode`; a replay works longer as a call does."""
        replay = self.runner.replayed_decode(state)
        if replay is None:
            return None
        return lambda tokens_B: self._longer(f"decode {len(tokens_B)}", state, lambda: replay(tokens_B))

    def logits(self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None) -> torch.Tensor:
        """See `Runner.logits`."""
        return self.runner.logits(tokens_BT, lengths_B)

    def score(
        self, tokens_BT: torch.Tensor, lengths_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Runner.score`; the log-probabilities of some documents get noise that depends on their tokens alone."""
        logprobs_BT, greedy_BT = self.runner.score(tokens_BT, lengths_B)
        for row, tokens_T in enumerate(tokens_BT.tolist() if self.planted.wrong else []):
            document = random.Random(f"document {tokens_T[:8]}")
            if document.random() < self.planted.wrong:
                noise = torch.Generator().manual_seed(random.Random(f"noise {tokens_T}").getrandbits(62))
                lost_T = torch.randn(logprobs_BT.shape[1], generator=noise).abs() * self.planted.noise
                logprobs_BT[row] -= lost_T.to(logprobs_BT.device)
                greedy_BT[row] = False
        return logprobs_BT, greedy_BT

    @property
    def weight_bytes(self) -> int | None:
        """See `Runner.weight_bytes`."""
        return self.runner.weight_bytes

    def resolved(self) -> dict[str, str]:
        """See `Runner.resolved`."""
        return self.runner.resolved()

    # --- working longer -----------------------------------------------------------------------------------

    def _longer(self, key: str, state: State, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        if not self.planted.slower:
            return call()
        is_slow = self.draw.random() < self.planted.share
        if self.device.startswith("cuda"):
            count = self._worth(key, state, call)
            result = call()
            self._multiply(count if is_slow else 0)
            return result
        return self._followed_by_work(call) if is_slow else call()

    def _followed_by_work(self, call: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The call, then work for a share of its time; what asking for that time takes is a part of the work."""
        inside = 0.0

        def watched() -> torch.Tensor:
            nonlocal inside
            entered = self.now()
            result = call()
            inside = self.now() - entered
            return result

        begun = self.now()
        milliseconds, result = self.clock.time(watched)
        self._multiply_until(begun + inside + self.planted.slower * milliseconds / 1e3)
        return result

    @torch.inference_mode()
    def _multiply_until(self, end: float) -> None:
        left, right, out = self.operands
        while self.now() < end:
            torch.mm(left, right, out=out)

    def _worth(self, key: str, state: State, call: Callable[[], torch.Tensor]) -> int:
        """How many products such a call is worth, measured the first time that it is seen."""
        if key not in self.products:
            self.products[key] = self._calibrate(state, call)
        return self.products[key]

    def _calibrate(self, state: State, call: Callable[[], torch.Tensor]) -> int:
        """Time the call and some products in turn, so that both see the same machine, and compare their medians."""
        before_B = state.lengths_B.clone()
        calls: list[float] = []
        products: list[float] = []
        while len(calls) < ROUNDS and (len(calls) < FEWEST_ROUNDS or sum(calls) < LONG_SECONDS):
            calls.append(self._seconds(call))
            products.append(self._seconds(lambda: self._multiply(TRIAL_PRODUCTS)) / TRIAL_PRODUCTS)
            state.truncate(before_B)
        return round(self.planted.slower * statistics.median(calls) / statistics.median(products))

    def _seconds(self, work: Callable[[], Any]) -> float:
        return self.clock.time(work)[0] / 1e3

    @torch.inference_mode()
    def _multiply(self, count: int) -> None:
        left, right, out = self.operands
        for _ in range(count):
            torch.mm(left, right, out=out)
