"""Is the timed call's answer right? Logits on fresh inputs, held against those of the reference cell.

The reference's worker stores its answer in the run's scratch folder; a candidate reads it from there. Both draw
the same inputs, because prompts follow from the suite's seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness.contract.config import ModelConfig
from harness.measure.measurement import outputs_path
from harness.measure.tolerances import Tolerance, tolerance
from harness.suite.variant import Variant


@dataclass(frozen=True)
class Verdict:
    """What came out of holding an answer against its reference."""

    held_against: str
    """The reference cell, or why there is none."""
    errors: list[float]
    """Relative L2 error of every row of logits; empty without a reference."""
    faults: list[str]
    """Every reason why the answer is wrong; empty when it is right."""


def store(folder: Path, cell_id: str, answer: dict[str, torch.Tensor]) -> None:
    """Keep `answer` for the cells that are held against this one; appears under its name only when complete."""
    path = outputs_path(folder, cell_id)
    unfinished = path.with_suffix(".part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in answer.items()}, unfinished)
    unfinished.replace(path)


def load(folder: Path, cell_id: str) -> dict[str, torch.Tensor] | None:
    """The stored answer of a cell, on the CPU; None when that cell stored none (it did not get that far)."""
    path = outputs_path(folder, cell_id)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def row_errors(logits_RV: torch.Tensor, reference_RV: torch.Tensor) -> list[float]:
    """|logits - reference| / |reference| (L2 over the vocabulary, in float64), one a row."""
    logits_RV, reference_RV = logits_RV.double(), reference_RV.double()
    return ((logits_RV - reference_RV).norm(dim=-1) / reference_RV.norm(dim=-1)).tolist()


def judge(
    logits_RV: torch.Tensor, folder: Path, variant: Variant, config: ModelConfig, reference: str | None
) -> Verdict:
    """Hold logits [R, vocab] on fresh inputs against those that the cell `reference` has stored."""
    if not bool(torch.isfinite(logits_RV).all()):
        return Verdict(reference or "nothing: not finite", [], ["the answer has NaN or infinite logits"])
    if reference is None:
        return Verdict("nothing: this cell is the reference of its selector", [], [])
    stored = load(folder, reference)
    if stored is None:
        return Verdict(f"nothing: the reference {reference} stored no answer", [], [])
    expected_RV = stored["logits"]
    if expected_RV.shape != logits_RV.shape:
        shapes = f"{list(logits_RV.shape)}, the reference's {list(expected_RV.shape)}"
        return Verdict(reference, [], [f"the answer's shape is {shapes}"])
    errors = row_errors(logits_RV.cpu(), expected_RV)
    allowed = tolerance(variant, variant_of(reference), config)
    return Verdict(reference, errors, faults(errors, allowed))


def faults(errors: list[float], allowed: Tolerance) -> list[str]:
    """Why these row errors are too large; empty when they are not."""
    needed = math.ceil(allowed.share * len(errors))
    typical, worst = sorted(errors)[needed - 1], max(errors)
    found = []
    if not typical <= allowed.typical:
        found.append(
            f"the answer is off by {typical:.2g} (relative L2, best {needed} of {len(errors)} rows); "
            f"allowed: {allowed.typical:.2g} ({allowed.reason})"
        )
    if not worst <= allowed.worst:
        found.append(f"a row of the answer is off by {worst:.2g} (relative L2); allowed: {allowed.worst:.2g}")
    return found


def variant_of(cell_id: str) -> Variant:
    """The variant that a cell id ends with."""
    return Variant.from_id(cell_id.rpartition(":")[2])
