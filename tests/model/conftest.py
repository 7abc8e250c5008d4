"""Checkpoints made once per session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.checkpoints import save_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`checkpoint(model_type, seed=0, **overrides)`: the directory of a tiny random checkpoint, made on first use."""
    made: dict[str, str] = {}

    def make(model_type: str, seed: int = 0, **overrides: Any) -> str:
        key = repr((model_type, seed, sorted(overrides.items(), key=str)))
        if key not in made:
            made[key] = str(save_checkpoint(tmp_path_factory.mktemp(model_type), model_type, seed, **overrides))
        return made[key]

    return make
