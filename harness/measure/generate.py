"""A whole static batch of requests: prompt and greedy answer, through the variant's decoding option."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from harness.contract.runner import Decoding, State
from harness.measure import answers
from harness.measure.answers import Verdict
from harness.measure.greedy import first_differences, forced_logits
from harness.measure.measurement import Bench
from harness.measure.timed import TimedMeasurement
from harness.measure.tolerances import tolerance
from harness.suite.cell import CellId

CHECK_TOKENS = 16
"""Answer tokens that the check looks at, at most: it needs the logits of each, and vocabularies are large."""


class GenerateMeasurement(TimedMeasurement):
    """TTFT, TPOT and output rate of `batch` requests of `length` tokens, each answered with `new_tokens` tokens.

    TPOT is one sample a repetition: the time after the first token, over the tokens after it.
    """

    timing = ("ttft", "tpot", "output_rate", "output_rate_per_device")

    def __init__(self, workload: Any, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        decoding = bench.parts["decoding"]
        assert isinstance(decoding, Decoding), f"the decoding option is {decoding!r}, not a Decoding"
        self.decoding = decoding

    def repeat(self, purpose: str) -> dict[str, list[float]]:
        prompts_BT = self._prompts(purpose)
        self.clock.settle()
        marks = [self.clock.mark()]
        answer = self._generate(prompts_BT, self.workload.new_tokens, lambda: marks.append(self.clock.mark()))
        steps = self.clock.between(marks)
        tokens = sum(len(row) for row in answer)
        rate = 1e3 * tokens / sum(steps)
        later = max(len(row) for row in answer) - 1
        return {
            "ttft": [steps[0]],
            "tpot": [sum(steps[1:]) / later] if later else [],
            "output_rate": [rate],
            "output_rate_per_device": [rate / self.devices],
        }

    def check(self) -> Verdict:
        """Two things: the logits along the reference's answer, and that the own answer is greedy by own logits."""
        prompts_BT, steps = self._prompts("check"), min(self.workload.new_tokens, CHECK_TOKENS)
        own_BT = torch.tensor(self._generate(prompts_BT, steps, None))
        stored = answers.load(self.bench.folder, self.bench.reference) if self.bench.reference else None
        forced_BT = own_BT if stored is None else stored["tokens"]
        self.state, logits_BTV = forced_logits(self.bench.runner, prompts_BT, forced_BT.to(self.bench.device))
        verdict = self.judge({"logits": logits_BTV.flatten(0, 1), "tokens": own_BT})
        return replace(verdict, faults=verdict.faults + self._greedy_faults(own_BT, forced_BT, logits_BTV.cpu()))

    def sized_state(self) -> State:
        return self.state

    def _generate(self, prompts_BT: torch.Tensor, new_tokens: int, on_token: Any) -> list[list[int]]:
        lengths_B = torch.full((prompts_BT.shape[0],), prompts_BT.shape[1])
        return self.decoding.generate(self.bench.runner, prompts_BT, lengths_B, new_tokens, (), on_token=on_token)

    def _prompts(self, purpose: str) -> torch.Tensor:
        return self.prompts.tokens(self.workload.batch, self.workload.length, purpose).to(self.bench.device)

    def _greedy_faults(self, own_BT: torch.Tensor, forced_BT: torch.Tensor, logits_BTV: torch.Tensor) -> list[str]:
        """A produced token must have the highest logit, up to what the tolerance explains.

        `logits_BTV` belong to the own answer as far as it equals the forced one, its first other token included. Two
        logits of a row whose L2 error is e * |row| can change places when they are closer than sqrt(2) * e * |row|.
        """
        variant = self.cell.variant
        reference = answers.variant_of(self.bench.reference) if self.bench.reference else variant
        allowed = tolerance(variant, reference, self.bench.runner.config).typical
        slack_BT = math.sqrt(2) * allowed * logits_BTV.norm(dim=-1)
        chosen_BT = logits_BTV.gather(-1, own_BT[..., None]).squeeze(-1)
        wrong_BT = logits_BTV.amax(-1) - chosen_BT > slack_BT
        seen = [difference + 1 for difference in first_differences(own_BT, forced_BT)]
        rows = [row for row, count in enumerate(seen) if bool(wrong_BT[row, :count].any())]
        return [f"sequences {rows} of the answer are not greedy by their own logits"] if rows else []
