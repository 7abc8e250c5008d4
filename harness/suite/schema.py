"""What a suite file may say. One struct per thing; unknown keys and wrong types are errors.

A suite asks one question and answers it in one or more tables. Each table names a checkpoint, its
variants, a baseline among them, and workloads. Lists expand: `form: [mha, mqa]` makes two variants,
`length: [512, 2048]` two workloads; a cell is one workload under one variant.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]
Lengths: TypeAlias = Positive | Annotated[list[Positive], Meta(min_length=1)]
TableName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$")]
"""Letters, digits, `-` and `_`: table names become parts of file names, cell ids and --set keys."""
Names: TypeAlias = str | Annotated[list[str], Meta(min_length=1)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of everything that a suite file can contain."""


class Choices(Strict, frozen=True):
    """One entry under `variants`: options per axis; lists are multiplied out. Omitted axes: the engine's default."""

    engine: Names = "native"
    form: Names | None = None
    selector: Names | None = None
    precision: Names | None = None
    cache: Names | None = None
    kernels: Names | None = None
    decoding: Names | None = None


class Choice(Strict, frozen=True):
    """The baseline: one option per axis; omitted axes: the engine's default. It must be among the variants."""

    engine: str = "native"
    form: str | None = None
    selector: str | None = None
    precision: str | None = None
    cache: str | None = None
    kernels: str | None = None
    decoding: str | None = None


class Prefill(Strict, frozen=True, tag_field="kind", tag="prefill"):
    """Time to first token (TTFT) of whole prompts of `length` tokens."""

    length: Lengths
    batch: Lengths = 1
    context: Literal["text", "random"] = "text"
    """What the prompt is: held-out text through the checkpoint's tokenizer, or seeded random token ids."""
    chunk: Positive | None = None
    """Tokens per prefill call; None feeds the whole prompt at once."""


class Decode(Strict, frozen=True, tag_field="kind", tag="decode"):
    """Time per output token (TPOT) with `length` tokens already in the cache."""

    length: Lengths
    batch: Lengths = 1
    context: Literal["text", "random", "synthetic"] = "text"
    """As for prefill; `synthetic` fills the cache with seeded content that is the same in every engine."""
    steps: Positive = 4
    """Decode steps per block; the state is truncated to `length` between blocks."""


class Generate(Strict, frozen=True, tag_field="kind", tag="generate"):
    """A whole static batch, prompt and greedy answer: output tokens per second, TTFT and TPOT."""

    length: Lengths
    new_tokens: Positive
    batch: Lengths = 1
    context: Literal["text", "random"] = "text"


class Accuracy(Strict, frozen=True, tag_field="kind", tag="accuracy"):
    """lm-eval tasks, own or stock. With `length`, the task `NAME_LENGTH` is run for every length."""

    tasks: Names
    length: Lengths | None = None
    limit: Positive | None = None
    """Documents per task; None takes all."""
    batch: Positive = 8


class Equivalence(Strict, frozen=True, tag_field="kind", tag="equivalence"):
    """Logits and greedy tokens beside the baseline's: relative L2, KL, top-1 agreement, first differing token."""

    length: Lengths
    batch: Positive = 2
    context: Literal["text", "random"] = "text"
    new_tokens: Count = 32


class Op(Strict, frozen=True, tag_field="kind", tag="op"):
    """One operator alone, at the dimensions of the table's checkpoint: right, how fast, and what share of a ceiling.

    `batch` sequences bring `tokens` new tokens each and see `length` keys, the new ones included. Besides the slots of
    the operator table there are `copy` and `linear`: torch's own large copy and matrix product, which say what is high.
    """

    operator: Names
    length: Lengths | None = None
    """None: nothing came before the new tokens."""
    tokens: Lengths = 1
    batch: Lengths = 1
    weight: Names | None = None
    """Matrix of a layer that a product is with, such as `gate_proj`: for `linear` and `fp8_gemm`."""


class Compile(Strict, frozen=True, tag_field="kind", tag="compile"):
    """The variant's kernels compiled ahead of time: registers, spills, shared memory, matrix instructions.

    Needs no device. A table either compiles or measures.
    """

    target: Names
    """Such as `sm_90`."""
    operator: Names | None = None
    """One cell for each of these slots of the operator table; None makes one cell of all."""


Workload: TypeAlias = Prefill | Decode | Generate | Accuracy | Equivalence | Op | Compile


Percent = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?%$")]
"""Such as `5%` or `2.5%`; `fraction` reads it."""


class Sampling(Strict, frozen=True):
    """How often a timed cell is repeated: in rounds, in each of which every variant of a workload gets a turn.

    Rounds go on until `precision` is reached or `budget` is spent, never fewer than `rounds` or more than `max_rounds`.
    The last of them closes the cell: all variants take it, on inputs that their answers can be judged by.
    """

    rounds: Positive = 3
    """Times that every variant gets its turn, at least; in a fresh random order."""
    max_rounds: Positive | None = None
    """Times that every variant gets its turn, at most; None leaves that to `precision` and `budget`."""
    samples: Positive = 3
    """Timed repetitions per turn (decode: blocks of `steps` timed steps)."""
    warmup: Count = 1
    """Untimed repetitions before a variant's first turn, at least; more while each is still faster than those before,
    up to half as many as are timed."""
    restarts: Count = 2
    """Times that all workers of a table are replaced and everything is timed again: processes differ by their
    memory layout, and no number of samples in one process shows that."""
    precision: Percent = "2%"
    """Half the width of the 95% interval of the time, or of its ratio to the baseline, at which rounds may end."""
    budget: Annotated[float, Meta(ge=0)] = 10.0
    """Seconds of timed and warm-up repetitions, all processes of a cell together, after which rounds end."""
    flush_l2: bool = False
    """On a GPU: overwrite the L2 cache before every timed call, so that it finds nothing there."""
    timeout: Seconds = 300.0
    """Seconds after which a cell, in any of its processes, is ended as `timeout`; so is loading the model."""

    @property
    def processes(self) -> int:
        """Worker processes that each timed cell is measured in, one after the other."""
        return self.restarts + 1


Kind = Literal["prefill", "decode", "generate", "accuracy", "equivalence", "op", "compile"]
Unlike = Literal[
    "machine",
    "checkpoint",
    "inputs",
    "compiler",
    "engine",
    "form",
    "selector",
    "precision",
    "cache",
    "kernels",
    "decoding",
]
"""What two sides may differ in: machine and threads, weights, real tokens and texts, who compiled kernels, or the
option on an axis."""


class Options(Strict, frozen=True):
    """Names of options by axis; a variant fits when it has one of the names on every axis that is given."""

    engine: Names | None = None
    form: Names | None = None
    selector: Names | None = None
    precision: Names | None = None
    cache: Names | None = None
    kernels: Names | None = None
    decoding: Names | None = None


class Limit(Strict, frozen=True, kw_only=True, tag_field="limit"):
    """What every rule says: which metrics it judges, and where. Names are exact; there are no patterns."""

    metrics: Names
    tables: Names | None = None
    """Only in these tables; None means all."""
    kinds: Kind | list[Kind] | None = None
    """Only for workloads of these kinds; None means all."""
    only: Options = Options()
    """Only for variants with these options, such as `{precision: fp32}`."""
    across: Unlike | list[Unlike] = []
    """Differences that are the question, so that sides which differ in them are compared all the same."""


class Relative(Limit, frozen=True, kw_only=True, tag="relative"):
    """For time, rates and memory: a ratio with two margins."""

    tolerate: Percent = "1%"
    """Up to here nothing is wrong."""
    catch: Percent = "5%"
    """From here on it has to be found."""


class Absolute(Limit, frozen=True, kw_only=True, tag="absolute"):
    """For errors and agreed bounds: a limit on the new value itself, in the metric's unit."""

    at_most: float | None = None
    at_least: float | None = None


class Points(Limit, frozen=True, kw_only=True, tag="points"):
    """For shares of documents, such as acc: a drop in percentage points, paired on the same documents."""

    catch: Annotated[float, Meta(gt=0)]
    """A drop from here on has to be found; `pass` means that it has been ruled out."""
    tolerate: Annotated[float, Meta(ge=0)] = 0.0


class Difference(Limit, frozen=True, kw_only=True, tag="difference"):
    """For other scores of documents, such as bits per byte: a loss in the metric's unit, paired on equal documents."""

    catch: Annotated[float, Meta(gt=0)]
    tolerate: Annotated[float, Meta(ge=0)] = 0.0


class Exact(Limit, frozen=True, kw_only=True, tag="exact"):
    """For deterministic quantities, such as cache bytes: any change for the worse is a regression."""


Rule: TypeAlias = Relative | Absolute | Points | Difference | Exact


class Gate(Strict, frozen=True):
    """What fails a build. Two rules of one limit may not meet on one metric of one cell."""

    rules: Annotated[list[Rule], Meta(min_length=1)]
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    """Chance that an unchanged suite raises any false alarm by a clock; split over its cells."""
    accuracy_alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """The same for everything that is judged over documents; split over those findings."""
    drift: Percent = "10%"
    """How far identical code may differ between two *stored* runs, which no pairing corrects: 7 to 9% within 40
    minutes on a shared machine. Measure yours with two runs of one commit before writing a smaller one."""
    budget: Seconds = 60.0
    """Seconds of timed turns, both versions together, after which a cell of a live gate that is undecided stays so."""
    baseline_days: Positive = 90
    """Age from which a stored baseline's times are no longer compared with."""


class Table(Strict, frozen=True):
    """One comparison table."""

    question: str
    checkpoint: str
    """A Hugging Face directory (relative to the suite file, or absolute) or the name of a preset."""
    variants: Annotated[list[Choices], Meta(min_length=1)]
    baseline: Choice
    workloads: Annotated[list[Workload], Meta(min_length=1)]
    sampling: Sampling | None = None
    """Overrides the suite's sampling."""


class Suite(Strict, frozen=True):
    """A suite file."""

    question: str
    tables: Annotated[dict[TableName, Table], Meta(min_length=1)]
    sampling: Sampling = Sampling()
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    threads: Positive | None = None
    """CPU threads per worker; None takes all cores."""
    device: Literal["cpu", "cuda"] | None = None
    """None takes `cpu` unless --device says otherwise."""
    plugins: list[str] = []
    """Plugin files (relative to the suite file) or module names that this suite needs."""
    gate: Gate | None = None
    """What `harness gate` fails on; None means that this suite gates nothing."""


def fraction(percent: str) -> float:
    """A `Percent` as a number.

    >>> fraction("2.5%")
    0.025
    """
    return float(percent.removesuffix("%")) / 100
