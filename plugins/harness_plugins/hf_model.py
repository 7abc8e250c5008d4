"""Load a checkpoint into the transformers class that fits model type and selector.

A V3.2 checkpoint with selector `dense` becomes a DeepseekV3ForCausalLM over the same weights without the
indexer's, so that the dense peer pays nothing for an indexer that it does not use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from harness.contract import ModelConfig
from harness.contract.hf_config import to_hf
from harness.contract.precision import Precision
from harness.contract.runner import EngineRequest
from harness.errors import UsageError
from harness.model.checkpoint import open_tensors

CLASSES: dict[str, tuple[Any, Any]] = {
    "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
    "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM),
    "deepseek_v32": (transformers.DeepseekV32Config, transformers.DeepseekV32ForCausalLM),
    "glm_moe_dsa": (transformers.GlmMoeDsaConfig, transformers.GlmMoeDsaForCausalLM),
}

INDEXER = ".self_attn.indexer."

NOT_OF_DENSE = ("model_type", "architectures", "layer_types", "mlp_layer_types", "index")
"""How keys of a V3.2 or GLM config start that would mislead DeepseekV3Config."""


def load_model(request: EngineRequest) -> transformers.PreTrainedModel:
    """The model in evaluation mode on the request's device.

    Raises UsageError when transformers finds a tensor missing, misshapen or without a place.
    """
    config_class, model_class = CLASSES[_class_name(request.config, request.variant.selector)]
    config = config_class(**_fields(request))
    source, tensors = _weights(request)
    precision = request.parts["precision"]
    assert isinstance(precision, Precision)
    with _quiet(), _as_usage_error(request.checkpoint):
        model, report = model_class.from_pretrained(
            source,
            config=config,
            state_dict=tensors,
            dtype=precision.dtype,
            attn_implementation=request.parts["kernels"],
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below with their names
            output_loading_info=True,
        )
    _refuse_incomplete(report, request)
    return model.to(request.device).eval()


def _class_name(config: ModelConfig, selector: str) -> str:
    """Key of `CLASSES`: models with an indexer fall back to V3's architecture when every key is attended to."""
    return "deepseek_v3" if config.has_indexer and selector == "dense" else config.model_type


def _fields(request: EngineRequest) -> dict[str, Any]:
    """The keyword arguments of the transformers config."""
    fields = _raw_config(request)
    fields.pop("quantization_config", None)  # FP8 weights arrive dequantised, see `_weights`
    if _class_name(request.config, request.variant.selector) == request.config.model_type:
        return fields
    dense = {key: value for key, value in fields.items() if not key.startswith(NOT_OF_DENSE)}
    layers = request.config.mlp_layer_types
    return dense | {"rope_interleave": True, "first_k_dense_replace": layers.count("dense")}


def _raw_config(request: EngineRequest) -> dict[str, Any]:
    """config.json as it is: transformers reads it by its own rules. A preset's is written from its ModelConfig."""
    path = Path(request.checkpoint) / "config.json"
    if path.is_file():
        return json.loads(path.read_text())
    return to_hf(request.config)


def _weights(request: EngineRequest) -> tuple[str | None, dict[str, torch.Tensor] | None]:
    """(directory, None) for transformers' own reader; (None, tensors) for presets and FP8 checkpoints.

    transformers reads FP8 only on some GPUs, so these weights are dequantised by the same code as for `native`.
    """
    if Path(request.checkpoint).is_dir() and request.config.fp8_block is None:
        return request.checkpoint, None
    tensors = open_tensors(request.checkpoint, request.config, request.seed)
    sparse = request.variant.selector == "dsa"
    return None, {name: tensors.get(name) for name in tensors.names() if sparse or INDEXER not in name}


@contextmanager
def _quiet() -> Iterator[None]:
    """No loading bar and no table of dropped tensors; what matters of it is raised by `_refuse_incomplete`."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


@contextmanager
def _as_usage_error(checkpoint: str) -> Iterator[None]:
    """No weights there, or a file that safetensors cannot read."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(f"transformers cannot load the weights: {str(error).splitlines()[0]}", checkpoint) from error


def _refuse_incomplete(report: dict[str, Any], request: EngineRequest) -> None:
    """transformers only warns about these, and fills what is missing with random numbers."""
    layers = request.config.num_hidden_layers
    dropped = re.compile(rf"model\.layers\.({layers}\..*|\d+\.self_attn\.indexer\..*)")  # MTP layer, indexer
    misshapen = [f"{name} is {tuple(given)}, not {tuple(due)}" for name, given, due in report["mismatched_keys"]]
    surplus = [name for name in report["unexpected_keys"] if not dropped.fullmatch(name)]
    for what, names in (
        ("missing", report["missing_keys"]),
        ("of a wrong shape", misshapen),
        ("that the model has no place for", surplus),
    ):
        if names:
            raise UsageError(f"tensors {what}: {', '.join(sorted(names))}", request.checkpoint)
