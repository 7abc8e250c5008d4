"""The engine `native` and its own options: forms, selectors, precisions, caches and plain decoding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness.contract import Option, Query, hookimpl


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
    return [
        Option("precision", name, partial(_precision, name, dtype), summary, _needs_bf16, reference_only=name == "fp64")
        for name, (dtype, summary) in summaries.items()
    ]


def _needs_bf16(query: Query) -> Sequence[str]:
    capability = query.facts.compute_capability
    if query.variant.precision != "bf16" or query.facts.device != "cuda" or capability is None or capability >= (8, 0):
        return ()
    return [f"precision bf16 needs compute capability 8.0 or newer, this GPU has {capability[0]}.{capability[1]}"]


def _precision(name: str, dtype: str) -> object:
    import torch

    from harness.contract.precision import Precision

    return Precision(name, getattr(torch, dtype))


def _caches() -> list[Option]:
    module = "harness_plugins.native_caches"
    return [
        Option("cache", "latent", f"{module}:LATENT", "what MLA keeps: one latent row per token"),
        Option("cache", "expanded", f"{module}:EXPANDED", "keys and values of every head: the price MLA avoids"),
    ]


def _decoding() -> Option:
    return Option("decoding", "plain", "harness_plugins.native_decoding:PLAIN", "one token per step, greedy")
