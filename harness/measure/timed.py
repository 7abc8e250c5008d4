"""What all timed measurements share: one clock, one memory meter, one check of the answer, one way to withhold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from harness.contract.runner import State
from harness.measure import answers
from harness.measure.answers import Verdict
from harness.measure.clock import clock_for
from harness.measure.measurement import Bench, Measurement, Outcome
from harness.measure.memory import memory_for
from harness.measure.prompts import Prompts, open_prompts
from harness.records.metrics import metric, withheld
from harness.records.record import Metric, Status
from harness.suite.cell import CellId
from harness.suite.schema import Workload

NOT_REAL = (" (emulated)", " (interpreted)")
"""How `Runner.resolved()` ends the value of a slot whose arithmetic is right but whose speed says nothing."""

CHECK_ROWS = 3
"""Rows of logits that an answer is judged by at least, so that one swapped expert or key does not decide."""


class TimedMeasurement(Measurement):
    """A cell with a clock. Subclasses say what one repetition is (`repeat`) and how its answer is checked (`check`)."""

    timed: ClassVar[bool] = True
    workload: Any
    """The concrete struct of the kind."""
    timing: ClassVar[tuple[str, ...]]
    """Metrics of this kind that come from the clock."""

    def __init__(self, workload: Workload, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        self.prompts: Prompts = open_prompts(bench, self.workload.context)
        self.prompt_facts = self.prompts.facts()
        self.clock = clock_for(bench.device)
        self.memory = memory_for(bench.device)  # after the tokenizer and the text, before the caches
        self.repetition = 0
        self.peaks: list[int] = []
        self.samples: dict[str, list[float]] = {name: [] for name in self.timing}
        self.devices = 1  # a runner works on one device

    # --- what a kind of workload is ---------------------------------------------------------------

    @abstractmethod
    def repeat(self, purpose: str) -> dict[str, list[float]]:
        """One repetition on inputs of their own (`purpose` makes them): samples of every metric in `timing`."""

    @abstractmethod
    def check(self) -> Verdict:
        """Hold the timed call's answer on inputs that no repetition has seen against the reference (see `judge`)."""

    @abstractmethod
    def sized_state(self) -> State:
        """The state whose bytes are reported; asked for after `check`."""

    # --- the measurement --------------------------------------------------------------------------

    @torch.inference_mode()
    def warm_up(self) -> None:
        self.repetition += 1
        self.repeat(f"warm-up {self.repetition}")

    @torch.inference_mode()
    def block(self) -> None:
        self.repetition += 1
        self.memory.reset()
        samples = self.repeat(f"timed {self.repetition}")
        peak = self.memory.peak()
        self.peaks += [] if peak is None else [peak]
        for name in self.timing:
            self.samples[name] += samples[name]

    @torch.inference_mode()
    def finish(self) -> Outcome:
        verdict = self.check()
        metrics = self._metrics()
        if verdict.errors:
            metrics["rel_l2_vs_reference"] = metric("rel_l2_vs_reference", verdict.errors)
        context = {**self.prompt_facts, "held_against": verdict.held_against, **self.facts()}
        if not verdict.faults:
            return Outcome(Status.PASSED, [], metrics, context)
        return Outcome(Status.INCORRECT, verdict.faults, _withhold_all(metrics), context)

    def judge(self, answer: dict[str, torch.Tensor]) -> Verdict:
        """Judge `answer["logits"]` [R, vocab] by the reference's; a reference that is sound is stored whole."""
        logits_RV = answer["logits"].float()
        bench = self.bench
        verdict = answers.judge(logits_RV, bench.folder, self.cell.variant, bench.runner.config, bench.reference)
        if self.bench.reference is None and not verdict.faults:
            answers.store(self.bench.folder, self.cell.id, {**answer, "logits": logits_RV})
        return verdict

    def facts(self) -> dict[str, Any]:
        """What this kind of cell adds to the record's context."""
        return {"prompt_tokens": self.workload.length}

    def fresh_batches(self) -> int:
        """How many batches of fresh inputs make at least as many rows as an answer is judged by."""
        return -(-CHECK_ROWS // self.workload.batch)

    # --- metrics ----------------------------------------------------------------------------------

    def _metrics(self) -> dict[str, Metric]:
        return {**self._timing_metrics(), **self._memory_metrics(), **self._size_metrics()}

    def _timing_metrics(self) -> dict[str, Metric]:
        unreal = [f"{slot} is {value}" for slot, value in self.bench.runner.resolved().items() if _is_unreal(value)]
        if unreal:
            return {name: withheld(name, "not timed: " + "; ".join(unreal)) for name in self.timing}
        return {
            name: metric(name, samples) if samples else withheld(name, "no sample was taken")
            for name, samples in self.samples.items()
        }

    def _memory_metrics(self) -> dict[str, Metric]:
        if not self.peaks or self.memory.resident is None:
            reason = "this system does not tell a process's peak memory"
            return {name: withheld(name, reason) for name in ("peak_memory", "peak_memory_growth")}
        growth = [max(0, peak - self.memory.resident) for peak in self.peaks]
        return {
            "peak_memory": metric("peak_memory", self.peaks),
            "peak_memory_growth": metric("peak_memory_growth", growth),
        }

    def _size_metrics(self) -> dict[str, Metric]:
        state = self.sized_state()
        sizes = {"cache_bytes": state.bytes, "cache_bytes_per_token": state.bytes_per_token}
        if self.bench.runner.weight_bytes is not None:
            sizes["weight_bytes"] = self.bench.runner.weight_bytes
        return {name: metric(name, [size]) for name, size in sizes.items()}


def chunks(tokens_BT: torch.Tensor, size: int | None) -> Sequence[torch.Tensor]:
    """`tokens_BT` cut along T into prefill calls of at most `size` tokens; None leaves it whole."""
    return tokens_BT.split(size or tokens_BT.shape[1], dim=1)


def _is_unreal(value: str) -> bool:
    return value.endswith(NOT_REAL)


def _withhold_all(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """A wrong answer's numbers are nobody's business; how wrong it is stays."""
    kept = {name: metrics[name] for name in ("rel_l2_vs_reference",) if name in metrics}
    return {name: withheld(name, "the answer is wrong") for name in metrics if name not in kept} | kept
