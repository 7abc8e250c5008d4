"""The lines around a table: what holds for all of it, and what a reader needs to judge its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.records.record import Status
from harness.records.statistics import relative_spread
from harness.report import pooled
from harness.report.collect import Entry, Origin, TableData
from harness.report.columns import COORDINATES, SUBJECT, UNTIMED, varying_keys
from harness.report.numbers import number
from harness.suite.variant import AXES, Variant

NOISY = 0.05
"""Relative spread above which a reader is told not to trust small differences."""

BUSY = 0.5
"""Load average above the run's own threads from which other processes are mentioned."""

LEGEND = "* best, with all that are within its noise; x ratio to the baseline; ± half the interquartile range"
ACCURACY_LEGEND = (
    "; accuracy: ± standard error, then the change from the baseline (points for %) with its 95% interval, paired over "
    "the same documents"
)


def legend(table: TableData) -> str:
    """What marks and signs mean."""
    return LEGEND + (ACCURACY_LEGEND if any(entry.kind == "accuracy" for entry in table.entries) else "")


def above(table: TableData, everywhere: Iterable[str]) -> list[str]:
    """What is the same in every row, and which row is the baseline."""
    lines = [", ".join([*_fixed_axes(table), *_fixed_shapes(table), *everywhere])]
    lines += [f"{kind}: {text}" for kind, text in _fixed_workload_keys(table).items()]
    if table.axes:
        lines.append(f"baseline: {variant_label(table.baseline, table.axes)}")
    return [line for line in lines if line]


def below(table: TableData) -> list[str]:
    """Where the numbers come from, how sure they are, and what is missing."""
    lines = [f"{label}{_origin_line(table, origin)}" for label, origin in _labelled(table)]
    lines += [_runs_line(table), _carried_line(table), _software_line(table), _compiler_line(table)]
    lines += _checked_lines(table)
    lines += [pooled.line(one, variant_label(one.variant, table.axes)) for one in pooled.pooled(table)]
    lines += [_clusters_line(table), _noise_line(table), *_missing(table)]
    return [line for line in lines if line]


def variant_label(variant: Variant, axes: Iterable[str]) -> str:
    """A variant by the axes that tell it from the others of its table."""
    return ", ".join(f"{axis} {getattr(variant, axis)}" for axis in axes)


# --- above ----------------------------------------------------------------------------------------


def _fixed_axes(table: TableData) -> list[str]:
    """Axes without a row label: one option everywhere, or one that follows from the option on another axis."""
    texts = []
    for axis in (axis for axis in AXES if axis not in table.axes):
        known = next((other for other in table.axes if table.follows(axis, other)), "")
        names = {getattr(variant, axis): getattr(variant, known, "") for variant in table.variants}
        several = " or ".join(f"{name} ({of})" for name, of in names.items())
        texts.append(f"{axis} {several if len(names) > 1 else next(iter(names))}")
    return texts


def _fixed_shapes(table: TableData) -> list[str]:
    """Length and batch, where a single one leaves nothing to put into a row label."""
    timed = [entry for entry in table.entries if entry.kind not in UNTIMED]
    shapes: dict[str, set[Any]] = {
        **{key: {entry.record.workload.get(key) for entry in table.entries} for key in SUBJECT},
        "length": {entry.record.workload.get("length") for entry in table.entries},
        "batch": {entry.record.workload.get("batch") for entry in timed},
    }
    fixed = {key: value for key, values in shapes.items() if len(values) == 1 and (value := values.pop())}
    return [f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in fixed.items()]


def _fixed_workload_keys(table: TableData) -> dict[str, str]:
    """For every kind, what its workloads have in common besides their shape."""
    lines = {}
    for kind in dict.fromkeys(entry.kind for entry in table.entries):
        own = [entry for entry in table.entries if entry.kind == kind]
        hidden = {*COORDINATES, *varying_keys(own)} - ({"batch"} if kind in UNTIMED else set())
        fixed = {key: value for key, value in own[0].record.workload.items() if key not in hidden}
        lines[kind] = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fixed.items())
    return {kind: text for kind, text in lines.items() if text}


# --- below ----------------------------------------------------------------------------------------


def _labelled(table: TableData) -> list[tuple[str, Origin]]:
    """`run A: ` before each origin, where there are several."""
    several = len(table.origins) > 1
    return [(f"run {chr(ord('A') + index)}: " if several else "", one) for index, one in enumerate(table.origins)]


def _origin_line(table: TableData, origin: Origin) -> str:
    record = next(entry.record for entry in table.entries if entry.origin == origin)
    machine: dict[str, Any] = record.context.get("machine", {})
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine.get("memory_bytes") else ""
    cpus = f" ({machine['cpu_count']} CPUs{memory})" if machine.get("cpu_count") else ""
    threads = f"{origin.threads} thread{'s' if origin.threads != 1 else ''}" if origin.threads else "threads unknown"
    checkpoint = record.checkpoint
    model = (
        f"{checkpoint.get('name', 'unknown checkpoint')} ({checkpoint.get('model_type', '?')}, {_weights(checkpoint)})"
    )
    text = f"; text sha256 {origin.text[:12]}" if origin.text else ""
    return f"{origin.machine}{cpus}, {threads}, device {origin.device}; checkpoint {model}{text}"


def _weights(checkpoint: dict[str, Any]) -> str:
    digest = f"sha256 {checkpoint.get('sha256', '?')[:12]}"
    return (
        f"random weights of seed {checkpoint.get('seed')}, {digest}" if checkpoint.get("source") == "preset" else digest
    )


def _runs_line(table: TableData) -> str:
    runs = {entry.run: entry for entry in table.entries}
    return "; ".join(
        f"{name}, {entry.header.started.replace('T', ' ')[:16]} UTC, {_git(entry)}" for name, entry in runs.items()
    )


def _carried_line(table: TableData) -> str:
    """Records that a run took over: their times are no older code's, but they met other weather."""
    carried = [str(run) for entry in table.entries if (run := entry.record.context.get("carried_over"))]
    if not carried:
        return ""
    cells = "1 cell was" if len(carried) == 1 else f"{len(carried)} cells were"
    return f"{cells} measured before, in {', '.join(dict.fromkeys(carried))}, not in turn with the others"


def _git(entry: Entry) -> str:
    git = entry.record.context.get("git") or {}
    if not git:
        return "no git state"
    return f"commit {git.get('commit', '?')[:12]}{' with uncommitted changes' if git.get('dirty') else ''}"


def _software_line(table: TableData) -> str:
    """Versions that all records share; unlike ones are listed with a slash."""
    names = ("python", "torch", "transformers", "lm_eval")
    found = {
        name: dict.fromkeys(entry.record.context.get("versions", {}).get(name) for entry in table.entries)
        for name in names
    }
    return ", ".join(f"{name} {'/'.join(filter(None, values))}" for name, values in found.items() if any(values))


def _compiler_line(table: TableData) -> str:
    """Who compiled kernels, and to which PTX."""
    contexts = [entry.record.context for entry in table.entries if entry.record.context.get("compiler")]
    who = ", ".join(dict.fromkeys(str(context["compiler"]) for context in contexts))
    versions = dict.fromkeys(version for context in contexts for version in context.get("ptx_versions", ()))
    return f"compiled by {who} to PTX {', '.join(versions)}; one figure a build, the highest is shown" if who else ""


def _checked_lines(table: TableData) -> list[str]:
    """What timed answers were held against and how far they were off; which were held against nothing."""
    references: dict[str, None] = {}
    errors: dict[str, list[float]] = {}
    unchecked: list[str] = []
    for entry in (
        entry for entry in table.entries if entry.kind not in UNTIMED and entry.record.status == Status.PASSED
    ):
        error, against = entry.value("rel_l2_vs_reference"), str(entry.record.context.get("held_against", ""))
        if error is not None:
            references[variant_label(Variant.from_id(against.rpartition(":")[2]), table.axes)] = None
            errors.setdefault(entry.record.variant.precision, []).append(error)
        elif "stored no answer" in against:
            unchecked.append(entry.record.cell)
    largest = ", ".join(f"{precision} {number(max(values))}" for precision, values in errors.items())
    lines = (
        [f"answers checked after timing against {' | '.join(references)}: relative L2 at most {largest}"]
        if errors
        else []
    )
    return lines + (
        [f"not checked, because the reference stored no answer: {', '.join(unchecked)}"] if unchecked else []
    )


def _clusters_line(table: TableData) -> str:
    """Tasks of which several documents stand in the same text."""
    shared = {}
    for context in (entry.record.context for entry in table.entries):
        if "clusters" in context and context["clusters"] < context["documents"]:
            shared[context["task"]] = f"{context['task']} {context['documents']} in {context['clusters']} texts"
    several = ", ".join(shared.values())
    return f"intervals allow for documents that share a text: {several}" if several else ""


def _noise_line(table: TableData) -> str:
    """The typical and the largest spread of the times, over how many samples, and on how busy a machine."""
    timed = [entry for entry in table.entries if entry.value("ttft") is not None or entry.value("tpot") is not None]
    samples = [metric.samples for entry in timed for name in ("ttft", "tpot") if (metric := entry.metric(name))]
    spreads = sorted(relative_spread(one) for one in samples if len(one) > 1)
    if not spreads:
        return ""
    counts = sorted({len(one) for one in samples if one})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    typical, worst = 100 * spreads[len(spreads) // 2], 100 * spreads[-1]
    text = f"noise: spread of the times typically ±{typical:.1f}%, at most ±{worst:.1f}%, over {count} samples a cell"
    text += "; do not read differences smaller than that" if spreads[-1] > NOISY else ""
    return text + _load_remark(timed)


def _load_remark(timed: Sequence[Entry]) -> str:
    """How many processes wanted to run, when that was more than this run's own threads."""
    loads = [load[0] for entry in timed if (load := entry.record.context.get("load_after"))]
    busy = max(loads, default=0.0)
    threads = max((entry.origin.threads or 1 for entry in timed), default=1)
    return f"; load average up to {busy:.1f}: other processes were running" if busy > threads + BUSY else ""


def _missing(table: TableData) -> list[str]:
    """Cells of the suite that have no record: the run was interrupted, or is still going on."""
    lacking = table.expected - len({entry.record.cell for entry in table.entries})
    return [f"{lacking} of {table.expected} cells have no record: the run did not finish"] if lacking > 0 else []
