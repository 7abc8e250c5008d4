"""One operator alone: is it right, how fast is it, and what share of the device's ceilings does it reach."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from harness.contract.operators import Operators, reference_operators
from harness.contract.precision import Precision
from harness.contract.slots import FUSED
from harness.errors import UnsupportedError
from harness.measure.ceilings import Ceilings
from harness.measure.measurement import Bench, Measurement, Outcome
from harness.measure.op_cases import CASES, TORCH, Draw, Inputs, OpShape, caller, narrowed, prepared
from harness.measure.op_clock import op_clock_for
from harness.measure.op_work import Work, work_of
from harness.measure.operator_error import RECIPES, operator_error, relative_l2, selection_overlap
from harness.measure.prompts import derived_seed
from harness.measure.timed import NOT_REAL
from harness.records.metrics import metric, withheld
from harness.records.record import Metric, Status
from harness.suite.cell import CellId

CHECKED_TOKENS = 16
"""New tokens of a sequence whose answers are held against FP64: the last ones, which see the most keys."""
CHECKED_SEQUENCES = 2
"""Sequences of a batch: the first and the last."""

OWN_ERRORS = 2.0
"""How many times as far from FP64 as the eager operator in the same precision an answer may be: one rounding more."""
FLOOR = {torch.float64: 1e-10, torch.float32: 5e-6, torch.bfloat16: 5e-6}
"""What an answer may be off in any case: sums of FP32 in another order (index scores are FP32 whatever the input)."""
QUANTISED_DIFF = {"fp8_grouped_experts": 1e-3}
"""What an FP8 operator may add to the quantising of its inputs, in `calc_diff` (DeepSeek's ladder): 1e-5, more where
it quantises again what it has computed and rounded itself."""
CALLS, BLOCK_SECONDS = 8, 0.2
"""Calls each way in a block, and the time after which no more follow: asking for a block costs as much as several."""

TIMING = ("latency_cold", "latency")
RATES = ("flop_rate", "byte_rate", "ceiling_share")


@dataclass(frozen=True)
class Answer:
    """How right an operator is."""

    metrics: dict[str, Metric]
    faults: list[str]


class OpMeasurement(Measurement):
    """A block is some calls behind a warm and one behind a cold L2 cache; the answer is checked on fresh inputs."""

    timed: ClassVar[bool] = True
    model: ClassVar[bool] = False
    workload: Any

    def __init__(self, workload: Any, bench: Bench, cell: CellId) -> None:
        super().__init__(workload, bench, cell)
        self.operator: str = workload.operator
        self.operators = cast("Operators", bench.parts["kernels"])
        self.dtype = cast("Precision", bench.parts["precision"]).dtype
        if self.operator in FUSED and self.operator not in self.operators.fused:
            raise UnsupportedError(self.operator, [f"kernels {self.operators.name} has no {self.operator}"])
        self.shape = _shape(workload, bench)
        self.device_kind = torch.device(bench.device).type
        self.ceilings = bench.shared.get(Ceilings, lambda _: Ceilings(bench.device, op_clock_for(bench.device)))
        self.call = caller(self.operator, self.operators)
        self.arguments = prepared(self.operator, self.operators, self._inputs("timed"), self.dtype)
        self.samples: dict[str, list[float]] = {name: [] for name in TIMING}

    @torch.inference_mode()
    def warm_up(self) -> None:
        if not self._unreal():
            self.ceilings.clock.warm(self._run)

    @torch.inference_mode()
    def block(self, inputs: int | None = None) -> dict[str, list[float]]:
        """A few calls each way. The inputs are the same in every block: what a device does with them does not depend
        on their values, and fresh ones would cost more than the call. What is not timed is not called here."""
        samples: dict[str, list[float]] = {}
        if self._unreal():
            return samples
        begun = time.perf_counter()
        for _ in range(CALLS):
            for name, value in self._once().items():
                samples.setdefault(name, []).append(value)
            if time.perf_counter() - begun > BLOCK_SECONDS:
                break
        for name, values in samples.items():
            self.samples[name] += values
        return samples

    @torch.inference_mode()
    def finish(self) -> Outcome:
        self.arguments = ()
        answer = self._check()
        metrics = {**self._timing(), **answer.metrics}
        context = {**self._facts(), "ceilings": self.ceilings.facts(), "held_against": "eager in FP64, same inputs"}
        if answer.faults:
            kept = {name: one for name, one in metrics.items() if name in answer.metrics}
            hidden = {name: withheld(name, "the answer is wrong") for name in metrics if name not in kept}
            return Outcome(Status.INCORRECT, answer.faults, hidden | kept, context)
        return Outcome(Status.PASSED, [], metrics, context)

    # --- time -------------------------------------------------------------------------------------

    def _once(self) -> dict[str, float]:
        """Milliseconds of one call each way, as far as the device can tell them."""
        clock = self.ceilings.clock
        taken = {"latency": clock.warm(self._run), "latency_cold": clock.cold(self._run)}
        return {name: value for name, value in taken.items() if value is not None}

    def _run(self) -> Any:
        return self.call(*self.arguments)

    def _inputs(self, purpose: str) -> Inputs:
        seed = derived_seed(self.bench.seed, f"{self.operator} {purpose}")
        return CASES[self.operator].inputs(self.shape, Draw(seed, self.bench.device))

    def _unreal(self) -> str:
        """Why this operator's time says nothing here; empty when it does."""
        implementation = self._resolved()
        return f"{self.operator} is {implementation}" if implementation.endswith(NOT_REAL) else ""

    def _resolved(self) -> str:
        if self.operator in TORCH:
            return "torch"
        capability = torch.cuda.get_device_capability(self.bench.device) if self.device_kind == "cuda" else None
        return self.operators.resolved((self.operator,), capability)[self.operator]

    def _work(self) -> Work:
        return work_of(self.operator, self.shape, self.dtype.itemsize, self.device_kind)

    def _timing(self) -> dict[str, Metric]:
        unreal = self._unreal()
        if unreal:
            return {name: withheld(name, f"not timed: {unreal}") for name in (*TIMING, *RATES)}
        no_cache = "the caches of this device cannot be emptied"
        times = {name: metric(name, taken) if taken else withheld(name, no_cache)
                 for name, taken in self.samples.items()}  # fmt: skip
        return {**times, **self._rates(self.samples["latency_cold"] or self.samples["latency"])}

    def _rates(self, milliseconds: Sequence[float]) -> dict[str, Metric]:
        """Achieved rates and the share of the nearer ceiling, from the cold time where there is one."""
        work, seconds = self._work(), [one / 1e3 for one in milliseconds]
        rates = {"byte_rate": metric("byte_rate", [work.bytes / one / 1e9 for one in seconds])}
        if work.flops:
            rates["flop_rate"] = metric("flop_rate", [work.flops / one / 1e12 for one in seconds])
        least = self._least_seconds(work)
        return rates | {"ceiling_share": metric("ceiling_share", [least / one for one in seconds])}

    def _least_seconds(self, work: Work) -> float:
        """The roofline: what moving the bytes, or doing the operations, takes at least on this device."""
        rate = self.ceilings.flops(work.products, self.dtype) if work.flops else None
        return max(work.bytes / self.ceilings.bandwidth(), work.flops / rate if rate else 0.0)

    def _facts(self) -> dict[str, Any]:
        """What the rates were made of, and which ceiling is the nearer one."""
        work = self._work()
        rate = self.ceilings.flops(work.products, self.dtype) if work.flops and not self._unreal() else None
        bytes_bound = not rate or work.flops / rate < work.bytes / self.ceilings.bandwidth()
        bound = {} if self._unreal() else {"bound_by": "bytes" if bytes_bound else "operations"}
        return {"flops": work.flops, "bytes": work.bytes, "implementation": self._resolved(), **bound}

    # --- right or wrong ---------------------------------------------------------------------------

    def _check(self) -> Answer:
        """Held against the eager operator in FP64, on inputs that no timed call has seen."""
        inputs = self._inputs("check")
        if self.operator == "copy":
            return Answer({}, [] if torch.equal(self.call(*inputs), inputs[0]) else ["the copy differs"])
        few = self._few()
        if self.operator in RECIPES:
            return self._check_quantised(narrowed(self.operator, inputs, *few))
        given = self.call(*prepared(self.operator, self.operators, inputs, self.dtype))
        given = given if isinstance(given, tuple) else (given,)
        axes = CASES[self.operator].axes[0]
        given = tuple(_chosen_rows(one, axes, *few) for one in given)
        return self._judged(given, narrowed(self.operator, inputs, *few))

    def _few(self) -> tuple[list[int], slice]:
        """Which sequences and columns are checked."""
        sequences = sorted({0, self.shape.batch - 1})[:CHECKED_SEQUENCES]
        rows = self.shape.tokens if CASES[self.operator].axes[0] != "M" else self.shape.batch * self.shape.tokens
        return sequences, slice(max(0, rows - CHECKED_TOKENS), rows)

    def _judged(self, given: tuple[Tensor, ...], inputs: Inputs) -> Answer:
        """Errors of a plain operator beside those of the eager one in the same precision."""
        reference = reference_operators()
        rounded = prepared(self.operator, reference, inputs, self.dtype)
        call = caller(self.operator, reference)
        own, truth = (_tuple(call(*arguments)) for arguments in (rounded, _widened(rounded)))
        if any(not _finite(one) for one in given):
            return Answer({}, ["the answer has NaN or infinite values where the reference has none"])
        error = max(_error(one, true) for one, true in zip(given, truth, strict=True))
        own_error = max(_error(one, true) for one, true in zip(own, truth, strict=True))
        metrics = {"error": metric("error", [error])}
        if own_error > 0:
            metrics["error_ratio"] = metric("error_ratio", [error / own_error])
        if self.operator == "index_scores":
            overlap = selection_overlap(reference, given[0], truth[0].float(), self.shape.selected)
            metrics["selection_overlap"] = metric("selection_overlap", [overlap])
        allowed = max(OWN_ERRORS * own_error, FLOOR[self.dtype])
        fault = f"off by {error:.2g} (relative L2 against FP64); eager in this precision {own_error:.2g}, " \
                f"allowed: {allowed:.2g}"  # fmt: skip
        return Answer(metrics, [] if error <= allowed else [fault])

    def _check_quantised(self, inputs: Inputs) -> Answer:
        """Errors of an FP8 operator: against FP64, as a multiple of BF16's own, and beyond the quantising."""
        select = self.shape.selected if self.operator == "fp8_index_scores" else None
        error = operator_error(self.operators, reference_operators(), self.operator, inputs, select)
        metrics = {"error": metric("error", [error.rel_l2]), "error_ratio": metric("error_ratio", [error.ratio])}
        if error.overlap is not None:
            metrics["selection_overlap"] = metric("selection_overlap", [error.overlap])
        allowed = QUANTISED_DIFF.get(self.operator, 1e-5)
        added = f"calc_diff {error.exact_diff:.2g} against FP64 on the quantised inputs; allowed: {allowed:g}"
        return Answer(metrics, [] if error.exact_diff <= allowed else [added])


def _shape(workload: Any, bench: Bench) -> OpShape:
    keys = workload.length or workload.tokens
    return OpShape(bench.runner.config, workload.batch, workload.tokens, keys, workload.weight)


def _tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _widened(arguments: Inputs) -> Inputs:
    """The same numbers in FP64."""
    return tuple(
        item.double() if isinstance(item, Tensor) and item.is_floating_point() and item.itemsize > 1 else item
        for item in arguments
    )


def _chosen_rows(result: Tensor, axes: str, sequences: list[int], columns: slice) -> Tensor:
    if axes == "M":
        return result[columns]
    result = result[sequences]
    return result[:, columns] if axes == "BT" else result


def _finite(result: Tensor) -> bool:
    return not result.is_floating_point() or not bool(torch.isnan(result.float()).any())


def _error(given: Tensor, truth: Tensor) -> float:
    """Relative L2, hidden scores left out; of selections the share of places that differ. Infinite for other shapes."""
    if given.shape != truth.shape:
        return math.inf
    if not given.is_floating_point():
        return float((given != truth).double().mean())
    given, truth = given.double(), truth.double()
    hidden = truth.isneginf()
    if not torch.equal(hidden, given.isneginf()):
        return math.inf
    return relative_l2(given.masked_fill(hidden, 0), truth.masked_fill(hidden, 0))
