"""How long a cell takes and how much memory its worker needs: rough on purpose, and said to be.

Counts multiplications of the model (two operations each) and bytes read, at rates that a plain machine reaches.
Used for the plan's time column, the progress bar's weights, and the choice whether workers fit together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from harness.contract.config import ModelConfig
from harness.contract.facts import MachineFacts
from harness.model.parameters import disk_shapes
from harness.suite.schema import Accuracy, Compile, Decode, Equivalence, Generate, Op, Prefill, Sampling, Workload
from harness.suite.variant import Variant

BASE_BYTES = 500 * 2**20
"""A worker before it loads weights: Python, torch, transformers."""
START_SECONDS = 5.0
"""Starting a worker: interpreter and imports."""
CELL_SECONDS = 0.5
"""What every cell costs besides computing: prompts, state, messages, storing."""
CHECKS = 2
"""Repetitions that checking an answer costs, roughly; of a prompt, timed calls are checked themselves."""
CALL_SECONDS_PER_LAYER = 2e-3
"""What every call costs besides computing: Python and small operators."""
BYTES_PER_SECOND_LOADED = 200e6
CHUNK_TOKENS = 1024
"""Query chunk that engines are assumed to work in; attention scores exist for one chunk at a time."""
COMPILE_SECONDS = 10.0
"""Compiling one operator for one target, when nothing is cached."""
TOKENS_PER_DOCUMENT = 512
DOCUMENTS = 100
"""Documents of an accuracy task whose number the suite does not limit."""
BYTES = {"fp32": 4, "bf16": 2, "fp8": 1}
"""Bytes of one weight; precisions that are not listed count as FP32."""


@dataclass(frozen=True)
class Rates:
    """What a device sustains on this kind of work: floating-point operations and bytes per second."""

    flops: float
    bandwidth: float


def rates_of(facts: MachineFacts, threads: int) -> Rates:
    """Conservative rates: 20 GFLOP/s and 4 GB/s a CPU thread, 50 TFLOP/s and 1 TB/s a GPU."""
    if facts.device == "cuda":
        return Rates(50e12, 1e12)
    return Rates(20e9 * threads, 4e9 * threads)


@dataclass(frozen=True)
class Size:
    """Parameters of a model: all, and those that one token uses."""

    total: int
    active: int


@lru_cache(maxsize=16)
def parameters(config: ModelConfig) -> Size:
    """Parameters of all tensors on disk; a token uses all of them but the routed experts that it is not sent to."""
    total = sum(math.prod(shape) for shape in disk_shapes(config).values())
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    sparse_layers = config.mlp_layer_types.count("sparse")
    return Size(total, total - sparse_layers * (config.n_routed_experts - config.num_experts_per_tok) * expert)


@dataclass(frozen=True)
class Work:
    """What a workload asks for: prompt tokens fed, single steps taken, and over how long a context."""

    batch: int
    prompt: int
    steps: int
    context: int
    """Longest context that a sequence reaches: what its cache has to hold."""


def work_of(workload: Workload) -> Work:
    """The work of one repetition (untimed kinds: of the whole cell)."""
    if isinstance(workload, Compile):
        return Work(0, 0, 0, 0)
    if isinstance(workload, Op):
        return _operator_work(workload)
    length = workload.length if isinstance(workload.length, int) else TOKENS_PER_DOCUMENT
    batch = workload.batch if isinstance(workload.batch, int) else 1
    match workload:
        case Prefill():
            return Work(batch, length, 0, length)
        case Decode():
            return Work(batch, 0, workload.steps, length + workload.steps)
        case Generate():
            return Work(batch, length, workload.new_tokens, length + workload.new_tokens)
        case Equivalence():
            return Work(batch, length, workload.new_tokens, length + workload.new_tokens)
        case Accuracy():
            return Work((workload.limit or DOCUMENTS) * 2, length, 0, length)


def _operator_work(workload: Op) -> Work:
    tokens, batch = (value if isinstance(value, int) else 1 for value in (workload.tokens, workload.batch))
    return Work(batch, tokens, 0, workload.length if isinstance(workload.length, int) else tokens)


def needs_model(workload: Workload) -> bool:
    """Whether a worker has to hold weights before it can do this."""
    return not isinstance(workload, Op | Compile)


def seconds_of(workload: Workload, variant: Variant, config: ModelConfig, sampling: Sampling, rates: Rates) -> float:
    """Estimated seconds of one cell, all its processes: set-up, warm-up, turns and check, without starting workers.

    Where precision decides how many rounds there are, half of the time budget is assumed.
    """
    if isinstance(workload, Compile):
        return COMPILE_SECONDS
    work = work_of(workload)
    once = _prompt_seconds(work, variant, config, rates) + work.steps * _step_seconds(work, variant, config, rates)
    if isinstance(workload, Accuracy | Equivalence):
        return CELL_SECONDS + once
    setup = Work(work.batch, work.context, 0, work.context)
    if isinstance(workload, Op):
        return sampling.processes * CELL_SECONDS * (1 + CHECKS) + _timed_seconds(once, sampling)
    filled = isinstance(workload, Decode) and workload.context != "synthetic"
    opening = CELL_SECONDS + (_prompt_seconds(setup, variant, config, rates) if filled else 0.0)
    checks = 0 if isinstance(workload, Prefill) else CHECKS
    return sampling.processes * (opening + once * (sampling.warmup + checks)) + _timed_seconds(once, sampling)


def _timed_seconds(once: float, sampling: Sampling) -> float:
    least = max(sampling.rounds, sampling.processes) * sampling.samples * once
    most = math.inf if sampling.max_rounds is None else sampling.max_rounds * sampling.samples * once
    return max(least, min(most, sampling.budget / 2))


def load_seconds(variant: Variant, config: ModelConfig, model: bool = True) -> float:
    """Estimated seconds until a fresh worker is ready, with or without a `model`."""
    if not model:
        return START_SECONDS
    return START_SECONDS + parameters(config).total * BYTES.get(variant.precision, 4) / BYTES_PER_SECOND_LOADED


def _prompt_seconds(work: Work, variant: Variant, config: ModelConfig, rates: Rates) -> float:
    attention = work.prompt * _attention_flops(work.prompt // 2, variant, config)
    linear = 2 * parameters(config).active * work.prompt
    attention += _expansion_flops(work.prompt, variant, config)
    calls = -(-work.prompt // CHUNK_TOKENS) * config.num_hidden_layers * CALL_SECONDS_PER_LAYER
    return calls + work.batch * (linear + attention) / rates.flops


def _step_seconds(work: Work, variant: Variant, config: ModelConfig, rates: Rates) -> float:
    """One decode step reads all active weights once and every cached token of every sequence."""
    active = parameters(config).active
    read = active * BYTES.get(variant.precision, 4) + work.batch * work.context * cache_bytes_per_token(variant, config)
    attention = _attention_flops(work.context, variant, config) + _expansion_flops(work.context, variant, config)
    flops = work.batch * (2 * active + attention)
    call = config.num_hidden_layers * CALL_SECONDS_PER_LAYER
    return call + max(read / rates.bandwidth, flops / rates.flops)


def _attention_flops(keys: int, variant: Variant, config: ModelConfig) -> float:
    """Operations of one query over `keys` cached tokens, all layers.

    A sparse selector reads index_topk of them and all index keys, except in form mha, where it is a mask.
    """
    absorbed = 2 * config.kv_lora_rank + config.qk_rope_head_dim
    expanded = config.qk_head_dim + config.v_head_dim
    width = absorbed if variant.form == "mqa" else expanded
    sparse = variant.selector == "dsa" and config.has_indexer
    index = keys * config.index_n_heads * config.index_head_dim if sparse else 0
    read = min(keys, config.index_topk) if sparse and variant.form != "mha" else keys
    return 2.0 * config.num_hidden_layers * (read * config.num_attention_heads * width + index)


def _expansion_flops(keys: int, variant: Variant, config: ModelConfig) -> float:
    """Operations of turning `keys` cached latents into keys and values of every head, all layers, once a call."""
    if variant.form != "mha" or variant.cache == "expanded":
        return 0.0
    width = config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim)
    return 2.0 * config.num_hidden_layers * keys * config.kv_lora_rank * width


def cache_bytes_per_token(variant: Variant, config: ModelConfig) -> int:
    """Bytes of one cached token, all layers: latents and rotary keys, or K and V of every head; index keys beside."""
    expanded = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    width = expanded if variant.cache == "expanded" else config.kv_lora_rank + config.qk_rope_head_dim
    index = config.index_head_dim if config.has_indexer else 0
    return config.num_hidden_layers * (width + index) * BYTES.get(variant.precision, 4)


@dataclass(frozen=True)
class Memory:
    """A worker's memory in bytes: while it waits for its turn (weights and caches), and at its peak."""

    resting: int
    peak: int


def memory_of(workload: Workload, variant: Variant, config: ModelConfig) -> Memory:
    """Estimated memory of a worker while the workload is open: a lower bound for outside engines."""
    work = work_of(workload)
    sequences = 1 if isinstance(workload, Accuracy) else work.batch
    weights = parameters(config).total * BYTES.get(variant.precision, 4) if needs_model(workload) else 0
    resting = BASE_BYTES + weights + sequences * work.context * cache_bytes_per_token(variant, config)
    chunk = min(max(work.prompt, 1), CHUNK_TOKENS)
    scores = sequences * config.num_attention_heads * chunk * work.context * 4
    logits = sequences * config.vocab_size * 4 * (work.prompt if isinstance(workload, Accuracy | Equivalence) else 1)
    return Memory(resting, resting + scores + logits)
