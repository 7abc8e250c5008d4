"""Time per output token over a filled cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from harness.contract.runner import State
from harness.measure.answers import Verdict
from harness.measure.measurement import Bench
from harness.measure.prompts import derived_seed
from harness.measure.timed import TimedMeasurement
from harness.suite.cell import CellId

FILL_CHUNK = 2048
"""Tokens per call while the cache is filled by a real prefill, so that filling never needs more memory than this."""


class DecodeMeasurement(TimedMeasurement):
    """TPOT and output rate with `length` tokens in the cache.

    A block times `steps` steps one by one and truncates the state back, so that every block sees the same
    lengths; the warm-up has run each of these shapes before (a BF16 product at a new shape costs several times
    more). The tokens fed are text (or random ids), never what the variant itself would have produced: all variants
    do the same work.
    """

    timing = ("tpot", "output_rate", "output_rate_per_device")

    def __init__(self, workload: Any, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        self.state = bench.runner.new_state(workload.batch, workload.length + workload.steps)
        self._fill("context")
        self.replay = bench.runner.replayed_decode(self.state)
        self.memory.release()

    def repeat(self, purpose: str) -> dict[str, list[float]]:
        milliseconds = [one for one, _ in self._steps(purpose)]
        rates = [1e3 * self.workload.batch / one for one in milliseconds]
        return {
            "tpot": milliseconds,
            "output_rate": rates,
            "output_rate_per_device": [rate / self.devices for rate in rates],
        }

    def check(self) -> Verdict:
        """By the logits [steps * B, vocab] of fresh tokens; over a fresh cache too when filling it costs nothing."""
        if self.workload.context == "synthetic":
            self._fill("check")
        return self.judge({"logits": torch.cat([logits_BV for _, logits_BV in self._steps("check")])})

    def sized_state(self) -> State:
        return self.state

    def _steps(self, purpose: str) -> list[tuple[float, torch.Tensor]]:
        """Milliseconds and logits [B, vocab] of every step; leaves the state as it was."""
        tokens_BT = self.prompts.tokens(self.workload.batch, self.workload.steps, purpose).to(self.bench.device)
        results = [self.clock.time(partial(self._step, tokens_BT[:, t])) for t in range(self.workload.steps)]
        self.state.truncate([self.workload.length] * self.workload.batch)
        return results

    def _step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        return self.replay(tokens_B) if self.replay else self.bench.runner.decode(tokens_B, self.state)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **({"cuda_graph": "replayed"} if self.replay else {})}

    def _fill(self, purpose: str) -> None:
        if self.workload.context == "synthetic":
            self.state.fill_random(derived_seed(self.bench.seed, purpose), self.workload.length)
            return
        tokens_BT = self.prompts.tokens(self.workload.batch, self.workload.length, purpose).to(self.bench.device)
        for chunk_BT in tokens_BT.split(FILL_CHUNK, dim=1):
            self.bench.runner.prefill(chunk_BT, self.state)
            self.bench.progress(int(self.state.lengths_B[0]) / self.workload.length, "filling the cache")
