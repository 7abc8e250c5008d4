"""How far a variant strays from the baseline: logits over whole prompts, and greedy answers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from harness.contract.runner import Decoding
from harness.measure import answers
from harness.measure.greedy import first_differences
from harness.measure.measurement import Bench, Measurement, Outcome
from harness.measure.prompts import open_prompts
from harness.records.metrics import metric
from harness.records.record import Metric, Status
from harness.suite.cell import CellId

POSITIONS = 256
"""Prompt positions whose distributions are held in float64 at a time."""


class EquivalenceMeasurement(Measurement):
    """Relative L2, KL divergence, top-1 agreement and the first differing greedy token, against the baseline.

    The baseline stores its logits and its greedy answers; it gets no metrics itself. Nothing here is judged by a
    tolerance (a sparse selector is *meant* to differ from a dense one), but NaN and infinity are always wrong.
    """

    timed: ClassVar[bool] = False
    workload: Any

    def __init__(self, workload: Any, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        self.prompts = open_prompts(bench, workload.context)

    @torch.inference_mode()
    def finish(self) -> Outcome:
        prompts_BT = self.prompts.tokens(self.workload.batch, self.workload.length, "equivalence")
        own = {"logits": self._logits(prompts_BT), **self._greedy(prompts_BT)}
        context = {**self.prompts.facts(), "prompt_tokens": self.workload.length}
        if not bool(torch.isfinite(own["logits"]).all()):
            return Outcome(Status.INCORRECT, ["the logits have NaN or infinite values"], {}, context)
        if self.bench.reference is None:
            answers.store(self.bench.folder, self.cell.id, own)
            return Outcome(Status.PASSED, [], {}, {**context, "held_against": "nothing: this cell is the baseline"})
        baseline = answers.load(self.bench.folder, self.bench.reference)
        if baseline is None:
            reason = f"the baseline {self.bench.reference} stored no outputs to compare with"
            return Outcome(Status.SKIPPED, [reason], {}, context)
        context["held_against"] = self.bench.reference
        return Outcome(Status.PASSED, [], compare(own, baseline), context)

    def _logits(self, prompts_BT: torch.Tensor) -> torch.Tensor:
        """float32 [B, T, vocab] on the CPU, one sequence after the other: all logits of a batch may not fit."""
        rows = []
        for index, tokens_T in enumerate(prompts_BT):
            self.bench.progress(index / len(prompts_BT), "logits of whole prompts")
            rows.append(self.bench.runner.logits(tokens_T[None].to(self.bench.device)).float().cpu())
        return torch.cat(rows)

    def _greedy(self, prompts_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.workload.new_tokens:
            return {}
        decoding = self.bench.parts["decoding"]
        assert isinstance(decoding, Decoding), f"the decoding option is {decoding!r}, not a Decoding"
        lengths_B = torch.full((prompts_BT.shape[0],), prompts_BT.shape[1])
        tokens_BT = prompts_BT.to(self.bench.device)
        return {
            "tokens": torch.tensor(
                decoding.generate(self.bench.runner, tokens_BT, lengths_B, self.workload.new_tokens, ())
            )
        }


def compare(own: dict[str, torch.Tensor], baseline: dict[str, torch.Tensor]) -> dict[str, Metric]:
    """All equivalence metrics of `logits` [B, T, vocab] and, when both have them, `tokens` [B, new_tokens]."""
    logits, expected = own["logits"], baseline["logits"]
    metrics = {
        "logits_rel_l2": metric("logits_rel_l2", answers.row_errors(logits.flatten(1), expected.flatten(1))),
        "kl": metric("kl", [float(f"{value:.6g}") for value in divergences(logits, expected)]),
        "top1_agreement": metric("top1_agreement", top1_agreement(logits, expected)),
    }
    if "tokens" in own and "tokens" in baseline:
        metrics["first_difference"] = metric("first_difference", first_differences(own["tokens"], baseline["tokens"]))
    return metrics


def divergences(logits_BTV: torch.Tensor, baseline_BTV: torch.Tensor) -> list[float]:
    """KL(baseline || variant) in nats at every position of every sequence."""
    result: list[float] = []
    pairs = zip(logits_BTV.flatten(0, 1).split(POSITIONS), baseline_BTV.flatten(0, 1).split(POSITIONS), strict=True)
    for own_TV, base_TV in pairs:
        own_log, base_log = own_TV.double().log_softmax(-1), base_TV.double().log_softmax(-1)
        result += (base_log.exp() * (base_log - own_log)).sum(-1).clamp(min=0).tolist()
    return result


def top1_agreement(logits_BTV: torch.Tensor, baseline_BTV: torch.Tensor) -> list[float]:
    """Share of positions with the baseline's most likely token, one value a sequence."""
    same_BT = logits_BTV.argmax(-1) == baseline_BTV.argmax(-1)
    shares: list[float] = same_BT.float().mean(dim=1).tolist()
    return shares
