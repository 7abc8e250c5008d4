"""What two records of one cell differ in besides the question: unlike things are never compared silently.

Five things decide a number without being the code under test: the machine and its threads, the weights, what was fed
in, who compiled kernels, and the precision that really computed. A rule's `across` says which of them is the question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.gate.verdict import Side
from harness.records.record import Record
from harness.suite.variant import AXES

MACHINE = ("system", "architecture", "cpu_model", "cpu_count", "memory_bytes", "gpu_name", "gpu_memory_bytes",
           "compute_capability")  # fmt: skip
"""Machine facts that decide how fast something is. Measured ones, such as clocks, are not among them."""

MACHINE_SETTINGS = ("device", "threads", "torch_threads", "cpu_capability")
INPUTS = ("seed", "text_sha256", "prompt_tokens", "tokens", "task", "task_versions", "documents", "builds")
COMPILER = ("compiler", "ptx_versions")
"""Who made machine code of kernels: another one makes other code of the same source."""
NOT_REAL = (" (emulated)", " (interpreted)")
"""How an operator's resolved name ends when its arithmetic is not the machine's own."""


@dataclass(frozen=True)
class Unlike:
    """One difference: `what` is the word a rule's `across` may name."""

    what: str
    text: str


def differences(base: Record, new: Record) -> list[Unlike]:
    """Everything that makes the two records unlike, each in a few words; empty when only the code may differ.

    A fact that only one of them knows (an older version did not store it, or the cell did not get that far) is none.
    """
    found = [Unlike("machine", text) for text in _changes(_machine(base), _machine(new))]
    if base.checkpoint.get("sha256") != new.checkpoint.get("sha256"):
        found.append(Unlike("checkpoint", f"checkpoint {_checkpoint(base)} -> {_checkpoint(new)}"))
    found += [Unlike("inputs", text) for text in _changes(_picked(base.context, INPUTS), _picked(new.context, INPUTS))]
    compilers = _changes(_picked(base.context, COMPILER), _picked(new.context, COMPILER))
    found += [Unlike("compiler", text) for text in compilers]
    found += [Unlike("precision", text) for text in _precision(base, new)]
    pairs = ((axis, getattr(base.variant, axis), getattr(new.variant, axis)) for axis in AXES)
    return found + [Unlike(axis, f"{axis} {one} -> {other}") for axis, one, other in pairs if one != other]


def unasked(found: Iterable[Unlike], across: Iterable[str]) -> list[str]:
    """The differences that are not the question, as text."""
    asked = set(across)
    return [unlike.text for unlike in found if unlike.what not in asked]


def listed(base: Side, new: Side) -> list[str]:
    """What else differs between two sides: the code, and the software below it. None of it forbids a comparison."""
    notes = _changes(base.versions, new.versions)
    commits = (_commit(base), _commit(new))
    if commits[0] != commits[1]:
        notes.insert(0, f"commit {commits[0]} -> {commits[1]}")
    elif base.commit is not None and not (base.dirty or new.dirty):
        notes.insert(0, f"both sides are commit {commits[0]}")
    return notes


def _commit(side: Side) -> str:
    return (side.commit or "unknown")[:12] + (" with changes" if side.dirty else "")


def _machine(record: Record) -> dict[str, Any]:
    """Facts and settings; memory in whole GiB, because a few pages differ from boot to boot."""
    context = record.context
    facts = _picked(context.get("machine", {}), MACHINE)
    for key in ("memory_bytes", "gpu_memory_bytes"):
        if facts.get(key):
            facts[key] = f"{facts[key] / 2**30:.0f} GiB"
    return {**facts, **_picked(context, MACHINE_SETTINGS)}


def _precision(base: Record, new: Record) -> list[str]:
    """Matrix precision, and operators whose arithmetic is real on one side only."""
    keys = ("matmul_precision",)
    unreal = [{slot for slot, name in record.resolved.items() if name.endswith(NOT_REAL)} for record in (base, new)]
    known = base.resolved.keys() & new.resolved.keys()
    texts = [
        f"{slot} {base.resolved[slot]} -> {new.resolved[slot]}" for slot in sorted((unreal[0] ^ unreal[1]) & known)
    ]
    return _changes(_picked(base.context, keys), _picked(new.context, keys)) + texts


def _checkpoint(record: Record) -> str:
    return f"{record.checkpoint.get('name', 'unknown')} ({str(record.checkpoint.get('sha256', ''))[:12]})"


def _picked(facts: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: facts[key] for key in keys if facts.get(key) is not None}


def _changes(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`key one -> other` for every key that both have and whose values differ."""
    return [
        f"{key.replace('_', ' ')} {_short(base[key])} -> {_short(new[key])}"
        for key in base
        if key in new and base[key] != new[key]
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # hashes
