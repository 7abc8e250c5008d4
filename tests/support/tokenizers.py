"""Small tokenizers of different habits, in Hugging Face files: lengths must come out right with each of them."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

BYTES = 256
SPECIAL = BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
BOS_ID, EOS_ID, PAD_ID = BYTES, BYTES + 1, BYTES + 2
VOCAB_SIZE = BYTES + 3

TEXTS = [
    "def f(x):\n    return x + 1\n\n\nclass A:\n    pass\n",
    "# anchor 4821\nimport os\n\n\n# falcon anchor\n" * 3,
] * 4
"""Enough to learn merges across newlines, spaces and digits from."""


def byte_tokenizer(directory: Path, max_length: int) -> Path:
    """Token id = byte value, then bos, eos and pad; nothing is added to a text by itself."""
    tokenizer = Tokenizer(models.BPE(vocab=_byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return _write(tokenizer, directory, max_length)


def merging_tokenizer(directory: Path, max_length: int) -> Path:
    """Byte-level BPE without pre-tokenization: its tokens reach across newlines, words and digits."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _write(tokenizer, directory, max_length)


def prefixing_tokenizer(directory: Path, max_length: int) -> Path:
    """SentencePiece's habits: spaces as `▁`, one more before every text, unknown characters as bytes, bos in front."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|\n"), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    fallback = [f"<0x{byte:02X}>" for byte in range(BYTES)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*SPECIAL, *fallback], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return _write(tokenizer, directory, max_length)


def _write(tokenizer: Tokenizer, directory: Path, max_length: int) -> Path:
    """`tokenizer.json` and `tokenizer_config.json`, into a directory that is made if need be."""
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def _byte_vocabulary() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: itself where it can be seen, else 256 + n."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(BYTES + n): byte for n, byte in enumerate(hidden)}
