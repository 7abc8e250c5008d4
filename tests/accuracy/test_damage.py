"""The plugin of wrong ways to run a model: each does the damage that it says, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from harness import load_runner
from harness.contract.registry import Registry
from harness.contract.runner import EngineRequest
from harness.model.presets import resolve
from harness.model.runner import build
from harness.suite.load import load_suite
from tests.support.checkpoints import random_tokens, save_checkpoint

SUITE = Path(__file__).parents[2] / "suites" / "damage.yaml"
PLUGIN = str(SUITE.parent / "plugins" / "damaged.py")
LENGTH = 150
TOPK = 32
VOCABULARY = 131
PAGE = 64


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny V3.2 that selects 32 keys."""
    folder = tmp_path_factory.mktemp("sparse") / "v32"
    return str(save_checkpoint(folder, "deepseek_v32", seed=4, index_topk=TOPK, max_position_embeddings=512))


def runner_of(checkpoint: str, **choices: str) -> Any:
    return load_runner(checkpoint, plugins=[PLUGIN], **{"form": "mqa", "selector": "dsa"} | choices)  # type: ignore[arg-type]


def tokens(seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return random_tokens(2, length, seed)


def first_selection(runner: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """What the first layer's queries selected [B, T, K], and their index scores [B, T, S] by the sound operators."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    attention = runner.model.layers()[0].self_attn
    selector, sound = attention.parts.selector, attention.parts.ops.index_scores
    select = selector.select

    def spy(source: Any, keys: Any) -> torch.Tensor | None:
        chosen = select(source, keys)
        indexer = source.indexer
        fields = (indexer.queries(source), indexer.head_weights(source), keys.field("index_key", source.span.end))
        seen.append((chosen, sound(*fields, source.span)))
        return chosen

    monkeypatch.setattr(selector, "select", spy)
    runner.logits(tokens())
    return seen[0]


@pytest.mark.parametrize("name", ["dsa", "dsa-lowest", "dsa-topk-16"])
def test_a_selector_takes_the_keys_that_it_says(name: str, sparse: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_BTK, scores_BTS = first_selection(runner_of(sparse, selector=name), monkeypatch)
    count = 16 if name == "dsa-topk-16" else TOPK
    for query in range(0, LENGTH, 7):
        visible = scores_BTS[0, query, : query + 1]
        order = visible.argsort(descending=name != "dsa-lowest", stable=True)
        chosen = chosen_BTK[0, query]
        assert sorted(chosen[chosen >= 0].tolist()) == sorted(order[:count].tolist())


@pytest.mark.parametrize("selector", ["dsa", "dsa-wrong-rotation"])
def test_the_wrong_rotation_is_that_of_the_other_layout(selector: str, sparse: str) -> None:
    registry = Registry([PLUGIN])
    variant = registry.variant({"engine": "native", "form": "mqa", "selector": "dsa"})
    other_layout = msgspec.structs.replace(resolve(sparse), indexer_rope_interleave=True)
    other = build(EngineRequest(sparse, other_layout, variant, registry.load(variant)))
    same = torch.equal(runner_of(sparse, selector=selector).logits(tokens()), other.logits(tokens()))
    assert same == (selector == "dsa-wrong-rotation")


def test_lost_pages_read_as_zeros_and_the_others_as_they_should(sparse: str) -> None:
    rows = {}
    for cache in ("latent", "latent-lost-pages"):
        runner = runner_of(sparse, cache=cache)
        state = runner.new_state(2, 400)
        runner.prefill(tokens(length=80), state)
        runner.prefill(tokens(seed=1, length=300), state)
        runner.decode(torch.tensor([1, 2]), state)
        rows[cache] = [state.caches[0].latent_rows(381), state.caches[0].field("index_key", 381)]
    for sound, lossy in zip(rows["latent"], rows["latent-lost-pages"], strict=True):
        for page in range(6):
            place = slice(page * PAGE, (page + 1) * PAGE)
            expected = torch.zeros_like(sound[:, place]) if page in (1, 5) else sound[:, place]
            assert torch.equal(lossy[:, place], expected)


@pytest.mark.parametrize("choices", [{"selector": "dense"}, {"selector": "dense", "form": "mha"}, {}, {"form": "mha"}])
def test_the_wrong_mask_hides_the_own_block_but_not_oneself(choices: dict[str, str], sparse: str) -> None:
    query, same_block, earlier_block = 140, 130, 100
    for kernels in ("eager", "eager-wrong-mask"):
        runner = runner_of(sparse, kernels=kernels, **choices)
        changed = {}
        for place in (query, same_block, earlier_block):
            other = tokens()
            other[:, place] = (other[:, place] + 1) % VOCABULARY
            changed[place] = not torch.allclose(runner.logits(tokens())[:, query], runner.logits(other)[:, query])
        assert changed[query]
        assert changed[same_block] == (kernels == "eager")
        if choices.get("selector") == "dense":
            assert changed[earlier_block]


def test_the_wrong_mask_takes_batches_of_unlike_lengths_and_chunks(sparse: str) -> None:
    runner = runner_of(sparse, kernels="eager-wrong-mask")
    whole = runner.logits(tokens()[:1])[:, -1]
    state = runner.new_state(2, LENGTH)
    padded = tokens()
    runner.prefill(padded[:, :100], state, torch.tensor([100, 30]))
    last = runner.prefill(padded[:, 100:], state, torch.tensor([50, 1]))
    assert torch.allclose(last[:1], whole, atol=1e-4)
    assert last.isfinite().all()


def test_every_damage_of_the_suite_changes_the_answer_and_nothing_else_does(sparse: str) -> None:
    suite = load_suite(SUITE).suite
    sound = runner_of(sparse).logits(tokens())
    plain = load_runner(sparse, form="mqa", selector="dsa").logits(tokens())
    assert torch.equal(sound, plain)
    names = [("selector", name) for name in suite.tables["trained"].variants[0].selector or [] if name != "dsa"]
    names += [(axis, getattr(row, axis)) for row in suite.tables["trained"].variants for axis in ("cache", "kernels")]
    damages = [(axis, name) for axis, name in names if name]
    assert len(damages) == 5
    for axis, name in damages:
        damaged = runner_of(sparse, **{axis: name}).logits(tokens())
        assert damaged.isfinite().all()
        assert not torch.allclose(damaged, sound, rtol=1e-2), name


def test_damage_is_for_native_with_an_indexer() -> None:
    from harness.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="no indexer to damage"):
        load_runner("tiny-v3", plugins=[PLUGIN], selector="dsa-lowest")
    with pytest.raises(UnsupportedError, match="engine native, not for hf"):
        load_runner("tiny-v32", plugins=[PLUGIN], engine="hf", kernels="eager-wrong-mask")
