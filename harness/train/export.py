"""Writes a trained model as a plain Hugging Face directory, with a `training.json` that says what made it.

The log of the run lies beside it as `training_log.jsonl`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file

from harness import corpus
from harness.errors import UsageError
from harness.model.export import disk_tensors
from harness.model.runner import NativeRunner
from harness.model.transformer import CausalLm
from harness.train.figures import figures
from harness.train.model import first_model
from harness.train.recipe import LoadedRecipe, hf_config
from harness.train.tokenizer import BOS_ID, EOS_ID, PAD_ID, write_tokenizer
from harness.train.training import LOG, Training


def require_free(output: Path) -> None:
    """Raise UsageError when the output directory is taken, before any time is spent on it."""
    if output.exists():
        raise UsageError("there already; remove it, or name another directory with --out", str(output))


def export(training: Training, loaded: LoadedRecipe, output: Path) -> dict[str, Any]:
    """Write the finished model to `output` and return the content of its `training.json`.

    Everything is written beside it first and moved there in one step, so there is never half a checkpoint.
    """
    require_free(output)
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = disk_tensors(training.model, getattr(torch, loaded.recipe.dtype))
    save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
    (unfinished / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    _write_json(unfinished / "config.json", hf_config(loaded.recipe))
    special = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    _write_json(unfinished / "generation_config.json", {**special, "do_sample": False})
    write_tokenizer(training.tokenizer, unfinished, loaded.recipe.model.max_position_embeddings)
    shutil.copyfile(training.folder / LOG, unfinished / "training_log.jsonl")
    report = training_report(training, loaded, unfinished)
    _write_json(unfinished / "training.json", report)
    os.replace(unfinished, output)
    return report


def training_report(training: Training, loaded: LoadedRecipe, directory: Path) -> dict[str, Any]:
    """Recipe, text, cost, versions and final figures."""
    recipe, model = loaded.recipe, training.model
    return {
        "description": recipe.description,
        "recipe": loaded.path.name,
        "recipe_sha256": loaded.sha256,
        "seed": recipe.seed,
        "text_sha256": corpus.text_hashes(),
        "text": f"standard library of Python {platform.python_version()}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_lengths": sorted({stage.length for stage in recipe.stages if stage.kind != "indexer"}),
        "stages": msgspec.to_builtins(recipe.stages),
        "cost": {
            "cpu_minutes": round(training.cost.cpu_seconds / 60, 2),
            "wall_minutes": round(training.cost.wall_seconds / 60, 2),
            "tokens": training.cost.tokens,
            "threads": recipe.threads,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "deepseek-harness")},
        "figures": figures(_runner(model, "dense"), _runner(model, "dsa"), directory),
    }


def _runner(model: CausalLm, selector: str) -> NativeRunner:
    """The same weights under a selector of our choice."""
    chosen = first_model(model.config, 0, selector)
    chosen.load_state_dict(model.state_dict())
    return NativeRunner(chosen)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
