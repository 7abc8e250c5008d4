"""A recipe that trains in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import corpus
from harness.train import data

TINY = """\
description: A few steps of every stage.
output: checkpoint
save_every: 2
model:
  hidden_size: 32
  intermediate_size: 48
  moe_intermediate_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  q_lora_rank: 16
  kv_lora_rank: 16
  qk_nope_head_dim: 8
  qk_rope_head_dim: 8
  v_head_dim: 16
  n_routed_experts: 4
  num_experts_per_tok: 2
  n_shared_experts: 1
  index_topk: 8
  index_n_heads: 16
  index_head_dim: 16
  max_position_embeddings: 300
  vocab_size: 600
stages:
  - {kind: dense, steps: 5, batch: 2, length: 32, learning_rate: 0.003, final_learning_rate: 0.001, warmup: 2}
  - {kind: indexer, steps: 3, batch: 2, length: 32, learning_rate: 0.003, final_learning_rate: 0.001, warmup: 2}
  - {kind: sparse, steps: 3, batch: 2, length: 32, learning_rate: 0.001, final_learning_rate: 0.0001, warmup: 1}
"""


@pytest.fixture(scope="package", autouse=True)
def little_text() -> Iterator[None]:
    """A corner of the corpus, so that a tokenizer is learned from it in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "training_text", lambda: corpus.split("train").text[:200_000])
        patch.setattr(data, "FACT_TEXTS", 100)
        yield


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path
