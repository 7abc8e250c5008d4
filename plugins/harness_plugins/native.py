"""The engine `native` and its own options: forms, selectors, precisions, caches and plain decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness.contract import Option, Query, hookimpl
from harness.contract.fp8 import BLOCK


@hookimpl
def harness_options() -> Sequence[Option]:
    """Everything but kernels, which are plugins of their own."""
    return [_engine(), *_forms(), *_selectors(), *_precisions(), *_caches(), _decoding()]


def _engine() -> Option:
    return Option(
        axis="engine",
        name="native",
        factory="harness.model.runner:build",
        summary="one model definition with a seam for every axis",
        defaults={
            "form": "auto",
            "selector": "dense",
            "precision": "fp32",
            "cache": "latent",
            "kernels": "eager",
            "decoding": "plain",
        },
    )


def _forms() -> list[Option]:
    module = "harness_plugins.native_forms"
    return [
        Option("form", "mha", f"{module}:MHA", "expanded MLA: keys and values of every head"),
        Option("form", "mqa", f"{module}:MQA", "absorbed MLA: all heads attend to the latents", _needs_latents),
        Option("form", "auto", f"{module}:AUTO", "per call, the form with fewer FLOPs", _needs_latents),
    ]


def _needs_latents(query: Query) -> Sequence[str]:
    if query.variant.cache != "expanded":
        return ()
    return [f"form {query.variant.form} reads latents, and cache expanded keeps only keys and values; allowed: mha"]


def _selectors() -> list[Option]:
    module = "harness_plugins.native_selectors"
    return [
        Option("selector", "dense", f"{module}:DENSE", "every query attends to every earlier key"),
        Option("selector", "dsa", f"{module}:DSA", "DeepSeek Sparse Attention: indexer and top-k", _needs_indexer),
    ]


def _needs_indexer(query: Query) -> Sequence[str]:
    if query.config.has_indexer:
        return ()
    model_type = query.config.model_type
    return [f"selector dsa needs a checkpoint with an indexer; this {model_type} has none (index_topk is 0)"]


def _precisions() -> list[Option]:
    summaries = {
        "fp32": ("float32", "FP32 throughout"),
        "bf16": ("bfloat16", "BF16 products; norms, router, softmax and index logits in FP32"),
        "fp64": ("float64", "FP64 throughout: the oracle, never timed"),
    }
    plain = [
        Option("precision", name, partial(_precision, name, dtype), summary, _needs_bf16, reference_only=name == "fp64")
        for name, (dtype, summary) in summaries.items()
    ]
    module, scales = "harness_plugins.native_fp8", "E4M3 products with scales per 1 x 128 and 128 x 128"
    return [
        *plain,
        Option("precision", "fp8", f"{module}:FP8", f"{scales}; the rest as bf16", _needs_fp8_blocks),
        Option("precision", "fp8_ue8m0", f"{module}:FP8_UE8M0", "fp8, all scales powers of two", _needs_fp8_blocks),
    ]


def _needs_bf16(query: Query) -> Sequence[str]:
    precision, capability = query.variant.precision, query.facts.compute_capability
    if precision in ("fp32", "fp64") or query.facts.device != "cuda" or capability is None or capability >= (8, 0):
        return ()
    return [
        f"precision {precision} needs compute capability 8.0 or newer, this GPU has {capability[0]}.{capability[1]}"
    ]


def _needs_fp8_blocks(query: Query) -> Sequence[str]:
    block = query.config.fp8_block
    if block in (None, (BLOCK, BLOCK)):
        return _needs_bf16(query)
    # Quantising them anew would measure other weights than the checkpoint's.
    found = f"{block[0]} x {block[1]}"
    name = query.variant.precision
    reason = (
        f"precision {name} takes FP8 weights in blocks of {BLOCK} x {BLOCK}, this checkpoint has {found}; allowed: bf16"
    )
    return [reason, *_needs_bf16(query)]


def _precision(name: str, dtype: str) -> object:
    import torch

    from harness.contract.precision import Precision

    return Precision(name, getattr(torch, dtype))


def _caches() -> list[Option]:
    module = "harness_plugins.native_caches"
    return [
        Option("cache", "latent", f"{module}:LATENT", "what MLA keeps: one latent row per token"),
        Option("cache", "expanded", f"{module}:EXPANDED", "keys and values of every head: the price MLA avoids"),
        Option("cache", "fp8", "harness_plugins.native_fp8_cache:FP8", "latent rows and index keys in E4M3", _can_pack),
    ]


def _can_pack(query: Query) -> Sequence[str]:
    config, reasons = query.config, []
    if config.kv_lora_rank % 4:
        reasons.append(f"cache fp8 aligns scales to 4 bytes; kv_lora_rank is {config.kv_lora_rank}, no multiple of 4")
    width = config.index_head_dim
    if query.variant.selector == "dsa" and width & (width - 1):
        reasons.append(f"cache fp8 rotates index keys of a power of two; index_head_dim is {width}")
    return reasons


def _decoding() -> Option:
    return Option("decoding", "plain", "harness_plugins.native_decoding:PLAIN", "one token per step, greedy")
