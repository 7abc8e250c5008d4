"""The list of checks. Everything that `harness check` can say stands here by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness.check import cache_checks, part_checks, runner_checks, state_checks
from harness.check.fp8_checks import FP8_CHECKS
from harness.check.operator_calls import SLOTS, CallsOfSlot
from harness.check.operator_checks import DTYPES, check_slot, rotary_is_relative
from harness.check.subject import Subject, Workbench
from harness.check.subjects import OptionName
from harness.check.verdict import NotApplicableError
from harness.contract.cache import CacheFormat
from harness.contract.operators import Operators


@dataclass(frozen=True)
class Part:
    """What one option names, by itself."""

    option: OptionName
    value: object
    bench: Workbench
    precisions: frozenset[str]
    """Those in which some variant with this option runs."""


@dataclass(frozen=True)
class Check:
    """One check: `run` takes a `Subject`, or the `Part` of an option of `axis`, and raises what it finds."""

    name: str
    question: str
    axis: str | None
    """The axis whose options it takes apart; None for a check of whole variants, which every axis gets."""
    run: Callable[..., None]


def _of_variants(run: Callable[[Subject], None]) -> Check:
    return Check(run.__name__, _first_line(run), None, run)


def _of_slot(calls: CallsOfSlot) -> Check:
    return Check(f"operator {calls.__name__}", _first_line(calls), "kernels", partial(_slot, calls))


def _of_fp8(run: Callable[..., None]) -> Check:
    return Check(f"operator {run.__name__}", _first_line(run), "kernels", partial(_fp8, run))


def _of_cache(run: Callable[..., None]) -> Check:
    return Check(run.__name__, _first_line(run), "cache", partial(_cache, run))


def _slot(calls: CallsOfSlot, part: Part) -> None:
    operators = _operators(part)
    eager = part.bench.registry.option("kernels", "eager").load()
    for precision in sorted(part.precisions & DTYPES.keys()):
        check_slot(calls, operators, eager, precision, part.bench.facts.device)


def _fp8(run: Callable[..., None], part: Part) -> None:
    run(_operators(part), part.bench.registry.option("kernels", "eager").load(), part.bench.facts.device)


def _relative(part: Part) -> None:
    rotary_is_relative(_operators(part), part.bench.facts.device)


def _operators(part: Part) -> Operators:
    if not isinstance(part.value, Operators):
        raise NotApplicableError(f"{part.option} fills no operator table")
    return part.value


def _cache(run: Callable[..., None], part: Part) -> None:
    if not isinstance(part.value, CacheFormat):
        raise NotApplicableError(f"{part.option} is not a CacheFormat")
    for name in sorted(part.precisions & DTYPES.keys()):
        precision = part.bench.registry.option("precision", name).load()
        run(part.value, part.bench.primary_config, precision, part.bench.facts.device)


def _first_line(function: Callable[..., object]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


CHECKS: tuple[Check, ...] = (
    *map(
        _of_variants,
        (
            runner_checks.equals_reference,
            runner_checks.equals_reference_that_quantises_alike,
            runner_checks.logits_are_float32,
            runner_checks.scores_are_of_the_logits,
            runner_checks.prefill_then_decode_equals_whole,
            runner_checks.chunks_equal_whole,
            runner_checks.batch_equals_singles,
            runner_checks.ragged_equals_singles,
            runner_checks.odd_sizes,
            runner_checks.decode_from_nothing,
            runner_checks.future_is_unseen,
            runner_checks.positions_matter,
            runner_checks.sequences_do_not_mix,
            runner_checks.states_do_not_mix,
            state_checks.truncate_then_continue_equals_fresh,
            state_checks.unused_memory_is_never_read,
            state_checks.bytes_are_declared,
            state_checks.full_states_refuse,
            state_checks.synthetic_context_is_the_declared_one,
            runner_checks.same_call_is_bitwise_equal,
            runner_checks.inputs_are_untouched,
            part_checks.selection_is_valid,
            part_checks.decoding_is_greedy,
        ),
    ),
    *map(_of_cache, (cache_checks.reads_back_what_was_written, cache_checks.layer_bytes_are_declared)),
    *map(_of_slot, SLOTS),
    *map(_of_fp8, FP8_CHECKS),
    Check("operator rotary_is_relative", _first_line(rotary_is_relative), "kernels", _relative),
)
"""In the order of the table."""
