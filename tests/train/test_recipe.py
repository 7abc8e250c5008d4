"""Recipes: what a file may say, and what it hears when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.train.recipe import hf_config, load_recipe, model_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden_size: 32", "hiden_size: 32", r"tiny\.yaml:5.*hiden_size.*hidden_size"),
        ("seed", "seed", None),
        ("save_every: 2", "save_every: 2\nsave_every: 3", r"tiny\.yaml:4.*save_every"),
        ("kind: dense", "kind: dence", r"tiny\.yaml:24.*dence.*dense"),
        ("learning_rate: 0.003", "learning_rate: 1e-3", r"tiny\.yaml:24"),
        ("learning_rate: 0.003", "learning_rate: -1.0", r"tiny\.yaml:24.*learning_rate"),
        ("steps: 5", "steps: many", r"tiny\.yaml:24.*steps"),
        ("length: 32", "length: 300", r"tiny\.yaml:24.*length 300.*max_position_embeddings, 300"),
        ("num_experts_per_tok: 2", "num_experts_per_tok: 5", r"tiny\.yaml:16.*num_experts_per_tok is 5.*4"),
        ("n_routed_experts: 4", "n_routed_experts: 4\n  n_group: 3", r"tiny\.yaml:15.*not a multiple of n_group 3"),
        ("output: checkpoint\n", "", r"tiny\.yaml.*output"),
        ("vocab_size: 600", "vocab_size: 259", r"tiny\.yaml:22.*vocab_size"),
        ("kind: dense,", "kind: dense, documents: {fact: 3},", r"tiny\.yaml:24.*fact.*facts"),
        ("kind: dense,", "kind: dense, documents: {facts: 3, share: [0.1, 1.2]},", r"tiny\.yaml:24.*share.*1\.2"),
        ("kind: dense,", "kind: dense, documents: {facts: 3, share: [0.9, 0.2]},", r"tiny\.yaml:24.*least share first"),
    ],
)
def test_wrong_recipes_name_file_line_and_key(recipe_file: Path, old: str, new: str, message: str | None) -> None:
    recipe_file.write_text(recipe_file.read_text().replace(old, new, 1))
    if message is None:
        load_recipe(recipe_file)
        return
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe_file)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_the_hash_sees_values_not_comments(recipe_file: Path) -> None:
    before = load_recipe(recipe_file).sha256
    recipe_file.write_text("# why\n" + recipe_file.read_text())
    assert load_recipe(recipe_file).sha256 == before
    recipe_file.write_text(recipe_file.read_text() + "seed: 1\n")
    assert load_recipe(recipe_file).sha256 != before


def test_another_seed_makes_another_recipe(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, seed=7).recipe.seed == 7
    assert load_recipe(recipe_file, seed=7).sha256 != load_recipe(recipe_file).sha256


def test_config_is_what_transformers_makes_of_it(recipe_file: Path) -> None:
    from transformers import AutoConfig

    recipe = load_recipe(recipe_file).recipe
    written = hf_config(recipe)
    theirs = AutoConfig.for_model(**{key: value for key, value in written.items() if key != "architectures"}).to_dict()
    assert {key: theirs[key] for key in written if key in theirs and key != "architectures"} == {
        key: value for key, value in written.items() if key in theirs and key != "architectures"
    }
    assert model_config(recipe).has_indexer


@pytest.mark.parametrize("path", sorted((ROOT / "suites" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).output.parent == ROOT / "suites" / "checkpoints"
