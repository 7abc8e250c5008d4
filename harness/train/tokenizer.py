"""The byte-level tokenizer: one token per UTF-8 byte, so that lengths in tokens and in bytes are the same thing.

Written in the files that Hugging Face tokenizers have, so that any tool loads it without remote code.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BYTES = 256
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
BOS_ID, EOS_ID, PAD_ID = BYTES, BYTES + 1, BYTES + 2
VOCAB_SIZE = BYTES + 3


def build_tokenizer() -> Tokenizer:
    """Token id = byte value for the first 256, then bos, eos and pad; nothing is added to a text by itself."""
    tokenizer = Tokenizer(models.BPE(vocab=_byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (BOS, EOS, PAD)])
    return tokenizer


def write_tokenizer(directory: Path, max_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into an existing directory."""
    build_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _byte_vocabulary() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: itself where it can be seen, else 256 + n."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(BYTES + n): byte for n, byte in enumerate(hidden)}
