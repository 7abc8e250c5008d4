"""What a finished checkpoint can do on held-out text, beside what counting trigrams can do on the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness import corpus
from harness.measure.accuracy_tasks import bits_per_byte
from harness.model.runner import NativeRunner
from harness.train.baseline import TrigramModel
from harness.train.tokenizer import BOS_ID

LENGTHS = (256, 512, 1024, 2048)
DOCUMENTS = 64
BATCH = 8


def held_out_documents(length: int, tokenizer: Path, documents: int = DOCUMENTS) -> list[bytes]:
    """The first documents of the task `bits_per_byte_LENGTH`."""
    texts = bits_per_byte(length, pretrained=str(tokenizer))["test"]["text"]
    return [text.encode() for text in texts[:documents]]


def model_bits_per_byte(runner: NativeRunner, documents: Sequence[bytes]) -> float:
    """Mean bits per byte of equally long documents, each after bos."""
    tokens = torch.tensor([[BOS_ID, *document] for document in documents])
    total = sum(runner.score(few)[0].double().sum().item() for few in tokens.split(BATCH))
    return -total / math.log(2) / sum(map(len, documents))


def figures(dense: NativeRunner, sparse: NativeRunner, tokenizer: Path) -> dict[str, Any]:
    """Held-out bits per byte by context length: dense attention, sparse attention, and the trigram baseline.

    Lengths beyond the model's maximum are left out.
    """
    trigrams = TrigramModel.fit(corpus.split("train").text.encode())
    found: dict[str, dict[str, float]] = {"dense": {}, "dsa": {}, "trigram": {}}
    for length in (length for length in LENGTHS if length < dense.config.max_position_embeddings):
        documents = held_out_documents(length, tokenizer)
        found["dense"][str(length)] = round(model_bits_per_byte(dense, documents), 4)
        found["dsa"][str(length)] = round(model_bits_per_byte(sparse, documents), 4)
        found["trigram"][str(length)] = round(trigrams.bits_per_byte(documents), 4)
    return {"bits_per_byte": found, "documents_per_length": DOCUMENTS}
