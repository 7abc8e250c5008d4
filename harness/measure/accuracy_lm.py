"""Any runner as a language model of lm-eval, so that its accuracy is lm-eval's own verdict.

Context and continuation are joined, truncated and scored as in lm-eval's `hf` model; the one difference is that a
sequence may hold `max_length` tokens, not one more, because a runner reads the last token too. Sequences of similar
length share a batch, padded on the right. Generation is greedy, through the variant's decoding option.

This module imports lm-eval, which takes seconds: import it late.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harness.contract.runner import Decoding, Runner
from harness.errors import UsageError

DEFAULT_NEW_TOKENS = 256
"""Tokens to generate for a task that does not say how many: lm-eval's own default."""


@dataclass(frozen=True)
class Scored:
    """One sequence to score: the last `continuation` of `tokens` count."""

    tokens: list[int]
    continuation: int


class RunnerLM(TemplateLM):
    """lm-eval's model interface over a runner, a Hugging Face tokenizer and a decoding option."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Any,
        decoding: Decoding,
        batch: int = 8,
        progress: Callable[[float, str], None] = lambda fraction, text: None,
    ) -> None:
        """`batch` sequences at most share a forward pass; `progress` hears the share of requests that are done."""
        super().__init__()
        self.runner = runner
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.batch = batch
        self.progress = progress
        self.max_length = runner.config.max_position_embeddings

    # --- tokens ----------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """End of text. Raises UsageError when the tokenizer has none."""
        if self.tokenizer.eos_token_id is None:
            raise UsageError("the tokenizer has no eos token", self.tokenizer_name)
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: bos, else eos."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's cache keys."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special tokens as the tokenizer adds them, unless told otherwise or bos is there already."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def count_tokens(self, arguments: Sequence[Any]) -> int:
        """Real tokens of a request's text; special tokens and generated ones are not counted."""
        texts = [argument for argument in arguments if isinstance(argument, str)]
        return len(self.tok_encode("".join(texts), add_special_tokens=False))

    # --- scoring ---------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Per request (context, continuation): log-probability of the continuation, and whether it is the argmax."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._score([self._scored(context, continuation) for _, context, continuation in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Per request (text,): log-probability of the whole text, in windows when it exceeds the maximum length."""
        windows = [[self._scored(*window) for window in self._windows(request.args[0])] for request in requests]
        results = iter(self._score([window for text in windows for window in text]))
        return [sum(next(results)[0] for _ in text) for text in windows]

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length - 1,
            context_len=1,
        )
        return map(make_disjoint_window, windows)

    def _scored(self, context: list[int], continuation: list[int]) -> Scored:
        """Truncated from the left; UsageError when not even one token of context would be left."""
        if len(continuation) >= self.max_length:
            raise UsageError(
                f"a continuation of {len(continuation)} tokens with a token of context exceeds the model's "
                f"max_position_embeddings of {self.max_length}"
            )
        return Scored((context + continuation)[-self.max_length :], len(continuation))

    def _score(self, sequences: list[Scored]) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, all argmax) of every continuation, in the order given."""
        results: list[tuple[float, bool]] = [(0.0, True)] * len(sequences)
        done = 0
        for places in _batches([len(sequence.tokens) for sequence in sequences], self.batch):
            for place, result in zip(places, self._score_batch([sequences[at] for at in places]), strict=True):
                results[place] = result
            done += len(places)
            self.progress(done / len(sequences), f"scored {done} of {len(sequences)}")
        return results

    def _score_batch(self, sequences: list[Scored]) -> list[tuple[float, bool]]:
        tokens_BT, lengths_B = self._pad([sequence.tokens for sequence in sequences])
        logprobs_BT, greedy_BT = self.runner.score(tokens_BT, lengths_B)
        results = []
        for row, sequence in enumerate(sequences):
            # Column t of the scores is about token t + 1, so a sequence's last score stands at its length - 2.
            last = len(sequence.tokens) - 1
            counted = slice(last - sequence.continuation, last)
            # Sums in float64: adding thousands of float32 log-probabilities would cost digits.
            total = logprobs_BT[row, counted].double().sum().item()
            results.append((total, bool(greedy_BT[row, counted].all())))
        return results

    # --- generating ------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Per request (context, options): greedy text up to a stop string, end of text or `max_gen_toks` tokens."""
        answers = [""] * len(requests)
        keys = [json.dumps(request.args[1], sort_keys=True) for request in requests]
        done = 0
        for _, group in groupby(sorted(range(len(requests)), key=keys.__getitem__), key=keys.__getitem__):
            members = list(group)
            options = GenerationOptions.of(requests[members[0]].args[1], self)
            contexts = [self._context(requests[member].args[0], options.new_tokens) for member in members]
            for places in _batches([len(context) for context in contexts], self.batch):
                for place, answer in zip(places, self._generate([contexts[at] for at in places], options), strict=True):
                    answers[members[place]] = answer
                done += len(places)
                self.progress(done / len(requests), f"generated {done} of {len(requests)}")
        return answers

    def _context(self, text: str, new_tokens: int) -> list[int]:
        room = self.max_length - new_tokens
        if room <= 0:
            raise UsageError(
                f"the task asks for {new_tokens} new tokens; the model's max_position_embeddings is {self.max_length}"
            )
        return (self.tok_encode(text) or [self.prefix_token_id])[-room:]

    def _generate(self, contexts: list[list[int]], options: GenerationOptions) -> list[str]:
        tokens_BT, lengths_B = self._pad(contexts)
        generated = self.decoding.generate(self.runner, tokens_BT, lengths_B, options.new_tokens, options.stop_tokens)
        texts = [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in generated]
        return [postprocess_generated_text(text, list(options.stop_strings), None) for text in texts]

    def _pad(self, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded int64 [B, T] and lengths [B], on the runner's device."""
        lengths = [len(sequence) for sequence in sequences]
        padding = self.tokenizer.pad_token_id or 0
        rows = [sequence + [padding] * (max(lengths) - len(sequence)) for sequence in sequences]
        device = self.runner.device
        return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)


@dataclass(frozen=True)
class GenerationOptions:
    """A task's `generation_kwargs`, checked."""

    new_tokens: int
    stop_strings: tuple[str, ...]
    stop_tokens: tuple[int, ...]
    """End of text, and the stop strings that are one token: generation may end there early."""

    @classmethod
    def of(cls, raw: dict[str, Any], lm: RunnerLM) -> GenerationOptions:
        """Raises UsageError for sampling: the harness compares greedy answers only."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(raw, DEFAULT_NEW_TOKENS))
        if options["do_sample"]:
            raise UsageError("the task's generation_kwargs ask for sampling (do_sample, temperature); allowed: greedy")
        strings = handle_stop_sequences(options["until"], eos=lm.tokenizer.decode(lm.eot_token_id))
        encoded = [lm.tok_encode(string, add_special_tokens=False) for string in strings if string]
        tokens = {ids[0] for ids in encoded if len(ids) == 1} | {lm.eot_token_id}
        return cls(options["max_gen_toks"], tuple(strings), tuple(sorted(tokens)))


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of similar length together, longest first, so that running out of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return (order[start : start + size] for start in range(0, len(order), size))
