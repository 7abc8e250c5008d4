"""Ways of decoding: a sound twin of `plain`, and one planted fault each. Imports torch at the top, for brevity."""

from __future__ import annotations

from functools import partial

import torch

from harness.contract import Option, hookimpl
from harness.contract.runner import Decoding


def sound(runner, tokens_BT, lengths_B, new_tokens, stop=(), on_token=None):
    """Each sequence alone, its whole text scored again for every token."""
    lengths = [tokens_BT.shape[1]] * len(tokens_BT) if lengths_B is None else lengths_B.tolist()
    answers = []
    for row_T, length in zip(tokens_BT, lengths, strict=True):
        text_T, answer = row_T[:length], []
        while len(answer) < new_tokens and not (answer and answer[-1] in stop):
            answer.append(int(runner.logits(text_T[None])[0, -1].argmax()))
            text_T = torch.cat([text_T, torch.tensor(answer[-1:])])
        answers.append(answer)
    return answers


def takes_the_second_best(runner, tokens_BT, *arguments, **keywords):
    """Every third token is the second likeliest."""
    answers = sound(runner, tokens_BT, *arguments, **keywords)
    for row_T, answer in zip(tokens_BT, answers, strict=True):
        answer[2::3] = [int(runner.logits(row_T[None])[0, -1].argmin())] * len(answer[2::3])
    return answers


def ignores_stop(runner, tokens_BT, lengths_B, new_tokens, stop=(), on_token=None):
    """Generates on after a stop token."""
    return sound(runner, tokens_BT, lengths_B, new_tokens)


def ignores_lengths(runner, tokens_BT, lengths_B, *arguments, **keywords):
    """Padding is taken for text."""
    return sound(runner, tokens_BT, None, *arguments, **keywords)


OPTIONS = {
    "sound": sound,
    "takes-the-second-best": takes_the_second_best,
    "ignores-stop": ignores_stop,
    "ignores-lengths": ignores_lengths,
}


@hookimpl
def harness_options():
    return [
        Option("decoding", name, partial(Decoding, name, generate), generate.__doc__)
        for name, generate in OPTIONS.items()
    ]
