"""Presets: real dimensions, seeded weights, names that are resolved or refused."""

from __future__ import annotations

import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch

from harness.errors import UsageError
from harness.model.checkpoint import open_tensors
from harness.model.parameters import disk_shapes
from harness.model.presets import PRESETS, resolve
from harness.model.random_weights import random_tensor


def test_v32_layer_has_the_real_attention() -> None:
    """config_671B_v3.2.json; 187 M attention parameters and 14 M of the indexer (DeepSeek-V3.2-Exp)."""
    config = PRESETS["v32-layer"]
    shapes = disk_shapes(config)
    attention = {name: prod(shape) for name, shape in shapes.items() if "self_attn" in name}
    indexer = sum(size for name, size in attention.items() if "indexer" in name)
    assert indexer == pytest.approx(13.96e6, rel=0.001)
    assert sum(attention.values()) - indexer == pytest.approx(187.1e6, rel=0.001)
    assert config.max_position_embeddings == 163_840
    assert config.softmax_scale == pytest.approx(192**-0.5 * 1.8738, rel=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_usable(name: str) -> None:
    assert PRESETS[name].problems() == []
    assert resolve(name) is PRESETS[name]


def test_weights_depend_on_seed_and_name_alone() -> None:
    config = PRESETS["tiny-v32"]
    forwards = dict(open_tensors("tiny-v32", config, seed=1).items())
    backwards = {name: open_tensors("tiny-v32", config, seed=1).get(name) for name in reversed(list(forwards))}
    assert all(torch.equal(forwards[name], backwards[name]) for name in forwards)
    other = open_tensors("tiny-v32", config, seed=2)
    assert not any(torch.equal(forwards[name], other.get(name)) for name in forwards)


def test_weights_keep_activations_at_unit_size() -> None:
    assert random_tensor(0, "a.weight", (512, 256)).std().item() == pytest.approx(1 / 16, rel=0.02)
    assert random_tensor(0, "model.embed_tokens.weight", (512, 256)).std().item() == pytest.approx(1, rel=0.02)
    assert random_tensor(0, "norm.weight", (4096,)).mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("v32-layr", "neither a directory nor a preset; did you mean 'v32-layer'?"),
        ("/no/such/place", "neither a directory nor a preset; presets: v3-layer"),
        (__file__, "is a file; give the directory that it is in"),
    ],
)
def test_what_is_no_checkpoint(given: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(given, where="suite.yaml:3")
    assert message in str(error.value)
    assert error.value.where == "suite.yaml:3"


def test_a_directory_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json there"):
        resolve(str(tmp_path))


def test_names_are_resolved_without_torch() -> None:
    code = "import harness.model.presets, harness.model.parameters, harness, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
