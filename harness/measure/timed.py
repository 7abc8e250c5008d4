"""What all timed measurements share: one clock, one memory meter, one check of the answer, one way to withhold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from harness.contract.runner import State
from harness.measure import answers
from harness.measure.answers import Verdict
from harness.measure.clock import OwnTimeClock, clock_for
from harness.measure.measurement import Bench, Measurement, Outcome
from harness.measure.memory import memory_for
from harness.measure.prompts import Prompts, open_prompts
from harness.records.metrics import metric, withheld
from harness.records.record import Metric, Status
from harness.suite.cell import CellId
from harness.suite.schema import Workload

NOT_REAL = (" (emulated)", " (interpreted)")
"""How `Runner.resolved()` ends the value of a slot whose arithmetic is right but whose speed says nothing."""

MEMORY = ("peak_memory", "peak_memory_growth")
"""Metrics of every timed kind that come from the memory meter, one sample a repetition."""

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
        self.clock = clock_for(bench.device, bench.flush_l2, bench.own_time)
        self.memory = memory_for(bench.device)  # after the tokenizer and the text, before the caches
        self.repetition = 0
        self.samples: dict[str, list[float]] = {name: [] for name in (*self.timing, *MEMORY)}
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
    def block(self, inputs: int | None = None) -> dict[str, list[float]]:
        self.repetition += 1
        self.memory.reset()
        samples = self.repeat(purpose_of(self.repetition if inputs is None else inputs))
        samples |= self._memory_samples(self.memory.peak())
        for name, values in samples.items():
            self.samples[name] += values
        return {name: values for name, values in samples.items() if name in MEMORY or not self._unreal()}

    @torch.inference_mode()
    def finish(self) -> Outcome:
        verdict = self.check()
        metrics = self._metrics()
        if verdict.errors:
            metrics["rel_l2_vs_reference"] = metric("rel_l2_vs_reference", verdict.errors)
        context = {**self.prompt_facts, "held_against": verdict.held_against, **self.facts()}
        if self.bench.own_time:
            context["waiting"] = "not counted" if isinstance(self.clock, OwnTimeClock) else "counted"
        if self.bench.flush_l2:
            context["l2_flushed"] = self.bench.device.startswith("cuda")
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
        unreal = self._unreal()
        if unreal:
            return {name: withheld(name, "not timed: " + "; ".join(unreal)) for name in self.timing}
        return self._given(self.timing, "no sample was taken")

    def _memory_metrics(self) -> dict[str, Metric]:
        return self._given(MEMORY, "this system does not tell a process's peak memory")

    def _given(self, names: Sequence[str], reason: str) -> dict[str, Metric]:
        """Metrics with samples, and those without withheld for a reason."""
        taken = self.samples
        return {name: metric(name, taken[name]) if taken[name] else withheld(name, reason) for name in names}

    def _memory_samples(self, peak: int | None) -> dict[str, list[float]]:
        if peak is None or self.memory.resident is None:
            return {}
        return dict(zip(MEMORY, ([peak], [max(0, peak - self.memory.resident)]), strict=True))

    def _unreal(self) -> list[str]:
        """What computes otherwise than it would in earnest, so that its time says nothing."""
        return [f"{slot} is {value}" for slot, value in self.bench.runner.resolved().items() if _is_unreal(value)]

    def _size_metrics(self) -> dict[str, Metric]:
        state = self.sized_state()
        sizes = {"cache_bytes": state.bytes, "cache_bytes_per_token": state.bytes_per_token}
        if self.bench.runner.weight_bytes is not None:
            sizes["weight_bytes"] = self.bench.runner.weight_bytes
        return {name: metric(name, [size]) for name, size in sizes.items()}


def purpose_of(number: int) -> str:
    """What the inputs of this number are for: a timed repetition, or, when negative, the closing turn and the check."""
    return f"timed {number}" if number >= 0 else f"check {-1 - number}"


def chunks(tokens_BT: torch.Tensor, size: int | None) -> Sequence[torch.Tensor]:
    """`tokens_BT` cut along T into prefill calls of at most `size` tokens; None leaves it whole."""
    return tokens_BT.split(size or tokens_BT.shape[1], dim=1)


def _is_unreal(value: str) -> bool:
    return value.endswith(NOT_REAL)


def _withhold_all(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """A wrong answer's numbers are nobody's business; how wrong it is stays."""
    kept = {name: metrics[name] for name in ("rel_l2_vs_reference",) if name in metrics}
    return {name: withheld(name, "the answer is wrong") for name in metrics if name not in kept} | kept
