"""What a finished checkpoint can do on held-out text, beside what counting trigrams can do on the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from harness import corpus
from harness.contract.span import Span
from harness.measure.accuracy_tasks import bits_per_byte
from harness.model.mtp import look_ahead, mtp_layers
from harness.model.runner import NativeRunner
from harness.train.baseline import TrigramModel
from harness.train.tokenizer import BOS_ID

LENGTHS = (256, 512, 1024, 2048)
DOCUMENTS = 64
BATCH = 8


def held_out_documents(length: int, checkpoint: Path, documents: int = DOCUMENTS) -> list[str]:
    """The first documents of the task `bits_per_byte_LENGTH`."""
    texts: list[str] = bits_per_byte(length, pretrained=str(checkpoint))["test"]["text"]
    return texts[:documents]


def after_bos(documents: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    """Tokens [documents, length + 1] of equally long documents, each after bos."""
    return torch.tensor([[BOS_ID, *tokenizer.encode(document).ids] for document in documents])


def model_bits_per_byte(runner: NativeRunner, documents: Sequence[str], tokenizer: Tokenizer) -> float:
    """Mean bits per byte of equally long documents, each after bos."""
    tokens = after_bos(documents, tokenizer)
    total = sum(runner.score(few)[0].double().sum().item() for few in tokens.split(BATCH))
    return -total / math.log(2) / sum(len(document.encode()) for document in documents)


@torch.inference_mode()
def mtp_acceptance(runner: NativeRunner, documents: Sequence[str], tokenizer: Tokenizer) -> float:
    """Share of places where the first prediction layer's greedy token is the main model's, a token later.

    Of a draft that is read off the text itself: in generation the token between is the main model's own choice.
    """
    model, agreed = runner.model, 0
    tokens_BT = after_bos(documents, tokenizer)
    for few_BT in tokens_BT.split(BATCH):
        hidden_BTD = model.hidden(few_BT, Span.fresh(*few_BT.shape))
        drafted_BT = next(look_ahead(model, hidden_BTD, few_BT)).argmax(-1)
        agreed += int((drafted_BT == model.head(hidden_BTD[:, 1:]).argmax(-1)).sum())
    return agreed / tokens_BT[:, 1:].numel()


def figures(dense: NativeRunner, sparse: NativeRunner, checkpoint: Path) -> dict[str, Any]:
    """Held-out bits per byte by context length: dense attention, sparse attention, and the trigram baseline.

    And for models with prediction layers how often the first one is right about the main model. Lengths beyond the
    model's maximum are left out.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    trigrams = TrigramModel.fit(corpus.split("train").text.encode())
    bits: dict[str, dict[str, float]] = {"dense": {}, "dsa": {}, "trigram": {}}
    accepted: dict[str, dict[str, float]] = {"dense": {}, "dsa": {}}
    for length in (length for length in LENGTHS if length < dense.config.max_position_embeddings):
        documents = held_out_documents(length, checkpoint)
        for name, runner in (("dense", dense), ("dsa", sparse)):
            bits[name][str(length)] = round(model_bits_per_byte(runner, documents, tokenizer), 4)
            if mtp_layers(runner.model):
                accepted[name][str(length)] = round(mtp_acceptance(runner, documents, tokenizer), 4)
        bits["trigram"][str(length)] = round(trigrams.bits_per_byte([document.encode() for document in documents]), 4)
    measured = {"bits_per_byte": bits, "documents_per_length": DOCUMENTS}
    return measured | ({"mtp_acceptance": accepted} if mtp_layers(dense.model) else {})
