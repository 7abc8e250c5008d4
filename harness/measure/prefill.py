"""Time to first token of whole prompts."""

from __future__ import annotations

from typing import Any

import torch

from harness.contract.runner import State
from harness.measure.answers import Verdict
from harness.measure.measurement import Bench
from harness.measure.timed import TimedMeasurement, chunks
from harness.suite.cell import CellId


class PrefillMeasurement(TimedMeasurement):
    """TTFT and prompt rate. Every repetition starts from an empty state and a prompt of its own."""

    timing = ("ttft", "prompt_rate")

    def __init__(self, workload: Any, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        self.state = bench.runner.new_state(workload.batch, workload.length)

    def repeat(self, purpose: str) -> dict[str, list[float]]:
        milliseconds, _ = self._prefill(purpose)
        tokens = self.workload.batch * self.workload.length
        return {"ttft": [milliseconds], "prompt_rate": [1e3 * tokens / milliseconds]}

    def check(self) -> Verdict:
        """By the logits [batches * B, vocab] after the last token of fresh prompts."""
        rows = [self._prefill(f"check {index}")[1] for index in range(self.fresh_batches())]
        return self.judge({"logits": torch.cat(rows)})

    def sized_state(self) -> State:
        return self.state

    def _prefill(self, purpose: str) -> tuple[float, torch.Tensor]:
        """Milliseconds, and the logits [B, vocab] after the last token."""
        tokens_BT = self.prompts.tokens(self.workload.batch, self.workload.length, purpose).to(self.bench.device)
        self.state.truncate([0] * self.workload.batch)
        return self.clock.time(lambda: self._all_chunks(tokens_BT))

    def _all_chunks(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        for chunk_BT in chunks(tokens_BT, self.workload.chunk):
            logits_BV = self.bench.runner.prefill(chunk_BT, self.state)
        return logits_BV
