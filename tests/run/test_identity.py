"""Like weights have like hashes, unlike ones do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.contract.config import ModelConfig
from harness.model.presets import PRESETS
from harness.run import identity
from harness.run.identity import checkpoint_identity
from tests.support.checkpoints import save_checkpoint


def hash_of(checkpoint: str | Path, seed: int = 0) -> str:
    config = ModelConfig.read(Path(checkpoint)) if Path(checkpoint).is_dir() else PRESETS[str(checkpoint)]
    return str(checkpoint_identity(str(checkpoint), config, seed)["sha256"])


def test_a_preset_is_its_dimensions_and_its_seed() -> None:
    assert hash_of("tiny-v32") == hash_of("tiny-v32")
    assert len({hash_of("tiny-v32"), hash_of("tiny-v32", 1), hash_of("tiny-v3")}) == 3


def test_a_directory_is_its_contents_wherever_it_lies(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_checkpoint(tmp_path / name, "deepseek_v3", seed=seed)
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b", seed=9)
    assert hash_of(tmp_path / "a") != hash_of(tmp_path / "c")
    config = tmp_path / "b" / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert hash_of(tmp_path / "a") != hash_of(tmp_path / "b")


def test_huge_checkpoints_are_known_by_headers_and_samples_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "a", "deepseek_v3", seed=1)
    save_checkpoint(tmp_path / "b", "deepseek_v3", seed=1, num_hidden_layers=3)
    monkeypatch.setattr(identity, "WHOLE_FILE_LIMIT", 0)
    save_checkpoint(tmp_path / "c", "deepseek_v3", seed=2)
    save_checkpoint(tmp_path / "again", "deepseek_v3", seed=1)
    config = ModelConfig.read(tmp_path / "a")
    assert checkpoint_identity(str(tmp_path / "a"), config, 0)["hash_of"] == "samples"
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "again")
    assert hash_of(tmp_path / "a") != hash_of(tmp_path / "b")
    assert hash_of(tmp_path / "a") != hash_of(tmp_path / "c")  # other weights under the same header
