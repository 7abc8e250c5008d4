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


Workload: TypeAlias = Prefill | Decode | Generate | Accuracy | Equivalence


class Sampling(Strict, frozen=True):
    """How often a timed cell is repeated. All variants of a workload are measured in turn, round after round."""

    rounds: Positive = 3
    """Times that every variant gets its turn, in a fresh random order."""
    samples: Positive = 3
    """Timed repetitions per turn (decode: blocks of `steps` timed steps)."""
    warmup: Count = 1
    """Untimed repetitions before a variant's first turn."""
    timeout: Seconds = 300.0
    """Seconds after which a cell is ended as `timeout`; loading the model has the same limit of its own."""


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
