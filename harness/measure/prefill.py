"""Time to first token of whole prompts."""

from __future__ import annotations

from typing import Any

import torch

from harness.contract.runner import State
from harness.measure import answers
from harness.measure.answers import Verdict
from harness.measure.measurement import Bench
from harness.measure.timed import TimedMeasurement, chunks, purpose_of
from harness.suite.cell import CellId


class PrefillMeasurement(TimedMeasurement):
    """TTFT and prompt rate. Every repetition starts from an empty state and a prompt of its own.

    The answers of the first timed repetitions and of the closing turn are kept and judged themselves, because a long
    prompt costs too much to be repeated for nothing but the check. Where no turn closed, fresh prompts follow.
    """

    timing = ("ttft", "prompt_rate")

    def __init__(self, workload: Any, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        self.state = bench.runner.new_state(workload.batch, workload.length)
        self.kept: dict[int, torch.Tensor] = {}
        """Number of a timed repetition's inputs -> its logits [B, vocab]."""

    def block(self, inputs: int | None = None) -> dict[str, list[float]]:
        samples = super().block(inputs)
        number = self.repetition if inputs is None else inputs
        if number < 0 or len(self.kept) < self.fresh_batches() - 1:
            self.kept[number] = self.last_BV.clone()
        return samples

    def repeat(self, purpose: str) -> dict[str, list[float]]:
        milliseconds, self.last_BV = self._prefill(purpose)
        tokens = self.workload.batch * self.workload.length
        return {"ttft": [milliseconds], "prompt_rate": [1e3 * tokens / milliseconds]}

    def check(self) -> Verdict:
        """By the logits [prompts * B, vocab] after the last token of the reference's prompts, timed and fresh ones."""
        stored = answers.load(self.bench.folder, self.bench.reference) if self.bench.reference else None
        prompts = self._own_prompts() if stored is None else stored["prompts"].tolist()
        rows = [self.kept[number] if number in self.kept else self._answer(number) for number in prompts]
        return self.judge({"logits": torch.cat(rows), "prompts": torch.tensor(prompts)})

    def _own_prompts(self) -> list[int]:
        """Those of the kept answers, then as many fresh ones as are lacking; without a closing turn at least one."""
        lacking = range(self.fresh_batches() - len(self.kept))
        lowest = min([0, *self.kept])
        return [*self.kept, *(lowest - 1 - index for index in lacking)]

    def _answer(self, number: int) -> torch.Tensor:
        """Logits [B, vocab] to the prompts of this number."""
        return self._prefill(purpose_of(number))[1]

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
