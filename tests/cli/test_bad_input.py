"""Bad input is one clear message with place, given and allowed; exit code 2; nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from harness.cli.main import main
from harness.errors import EXIT_USAGE
from tests.support.checkpoints import save_checkpoint
from tests.support.fake_suite import FakeSuite, fake_suite

Shell = Callable[..., str]


@pytest.fixture
def suite(tmp_path: Path) -> FakeSuite:
    return fake_suite(tmp_path, ["sound", "wrong"], [8, 16])


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs the command line, expects exit code 2 and returns the one message; `started` allows progress before it."""

    def call(*arguments: str | Path, started: bool = False) -> str:
        assert main([str(argument) for argument in arguments]) == EXIT_USAGE
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        *progress, message = captured.err.splitlines()
        assert message.startswith("harness: ")
        assert started or not progress
        return message

    return call


@dataclass(frozen=True)
class Bad:
    """One piece of text in the suite file replaced by another, and what the message has to name."""

    old: str
    new: str
    parts: tuple[str, ...]


IN_THE_FILE = {
    "unknown key": Bad("  rounds: 2", "  round: 2", ("unknown key in sampling 'round'", "'rounds'", "timeout, warmup")),
    "duplicate key": Bad(
        "threads: 1", "threads: 1\nthreads: 2", ("'threads' is given twice", "in line 2 and in line 3")
    ),
    "1e-3 as text": Bad("timeout: 60.0", "timeout: 1e-3", ("sampling.timeout", "1e-3 is text", "write 1.0e-3")),
    "a number in quotes": Bad(
        "rounds: 2", "rounds: '2'", ("sampling.rounds is the text '2'", "whole number", "quotes: 2")
    ),
    "a boolean": Bad("rounds: 2", "rounds: no", ("sampling.rounds", "no is read as false")),
    "a time of day": Bad("rounds: 2", "rounds: 12:30", ("sampling.rounds", "read as 750")),
    "unknown workload": Bad("kind: prefill", "kind: prefil", ("'prefil'", "did you mean 'prefill'?")),
    "unknown option": Bad("- wrong", "- wrnog", ("unknown kernels 'wrnog'", "did you mean 'wrong'?")),
    "unknown engine": Bad("- engine: fake", "- engine: fakir", ("unknown engine 'fakir'", "did you mean 'fake'?")),
    "unknown device": Bad("threads: 1", "device: gpu", ("unknown device 'gpu'", "cpu, cuda")),
    "baseline that is no variant": Bad("kernels: sound\n", "kernels: crash\n", ("baseline fake/mha/", "not among the")),
    "context beyond the model": Bad(
        "      - 16", "      - 99", ("length 99 needs 99 positions", "64", "max_position_")
    ),
    "no such checkpoint": Bad("checkpoint: check", "checkpoint: chekc", ("'chekcpoint'",)),
    "no such plugin": Bad("fake_engine.py", "fake_engin.py", ("fake_engin.py", "does not exist")),
    "not YAML": Bad("threads: 1", "threads: [1", ("not valid YAML",)),
    "empty list": Bad("      length:\n      - 8\n      - 16", "      length: []", ("length is an empty list",)),
}


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("bad", IN_THE_FILE.values(), ids=IN_THE_FILE.keys())
def test_a_bad_suite(suite: FakeSuite, refused: Shell, bad: Bad, command: str) -> None:
    text = suite.path.read_text()
    assert bad.old in text
    suite.path.write_text(text.replace(bad.old, bad.new, 1))
    message = refused(command, suite.path, "--out", suite.out)
    for part in bad.parts:
        assert part in message
    assert not suite.out.exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("unknown key", 4),
        ("duplicate key", 3),
        ("1e-3 as text", 8),
        ("unknown option", 22),
        ("context beyond the model", 27),
    ],
)
def test_the_message_names_the_line(suite: FakeSuite, refused: Shell, name: str, line: int) -> None:
    bad = IN_THE_FILE[name]
    suite.path.write_text(suite.path.read_text().replace(bad.old, bad.new, 1))
    assert refused("run", suite.path, "--out", suite.out).startswith(f"harness: {suite.path}:{line}: ")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--set", "sampling.round=5"], ["--set sampling.round=5", "'round'", "did you mean 'rounds'?"]),
        (["--set", "rounds"], ["--set rounds", "KEY=VALUE"]),
        (["--set", "tables.fault.sampling.rounds=5"], ["unknown table 'fault'", "did you mean 'faults'?"]),
        (["--only", "kernels=wrnog"], ["--only kernels=wrnog", "did you mean 'wrong'?"]),
        (["--only", "kernel=wrong"], ["unknown axis 'kernel'", "did you mean 'kernels'?"]),
        (["--only", "kernels=crash"], ["--only kernels=crash", "no variant of the suite is left", "/sound/"]),
        (["--device", "cuda"], ["--device cuda", "nvidia-smi shows no GPU here", "allowed: cpu"]),
        (["--checkpoint", "v32-layr"], ["v32-layr", "did you mean 'v32-layer'"]),
        (["--plugin", "no_such_module_at_all"], ["no_such_module_at_all", "fails at import"]),
    ],
)
def test_bad_flags(
    suite: FakeSuite, refused: Shell, monkeypatch: pytest.MonkeyPatch, flags: list[str], parts: list[str]
) -> None:
    monkeypatch.setattr("harness.run.machine.gpu_facts", dict)
    message = refused("run", suite.path, "--out", suite.out, *flags)
    for part in parts:
        assert part in message
    assert not suite.out.exists()


def test_a_plugin_that_fails_at_import_names_file_and_line(suite: FakeSuite, refused: Shell, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("import os\n\nraise RuntimeError('planted')\n")
    message = refused("run", suite.path, "--out", suite.out, "--plugin", plugin)
    assert f"{plugin}:3" in message
    assert "RuntimeError: planted" in message
    assert refused("list", "--plugin", plugin)
    assert not suite.out.exists()


def test_a_results_folder_that_cannot_be_written(suite: FakeSuite, refused: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused("run", suite.path, "--out", tmp_path / "file")
    assert f"--out {tmp_path / 'file'}" in message
    assert "cannot write results there" in message


def test_a_result_document_that_cannot_be_written_is_found_before_the_run(suite: FakeSuite, refused: Shell) -> None:
    message = refused("run", suite.path, "--out", suite.out, "--json", suite.path.parent / "nowhere" / "r.json")
    assert "--json" in message
    assert not suite.out.exists()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_missing_suite_names_the_nearest(suite: FakeSuite, refused: Shell, command: str) -> None:
    assert "did you mean" in refused(command, suite.path.with_name("fautls.yaml"))


def test_report_on_a_folder_without_a_run(suite: FakeSuite, refused: Shell, tmp_path: Path) -> None:
    assert "holds no run (no run.json)" in refused("report", tmp_path)
    assert "holds no run" in refused("report", tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run"], ["run", "x.yaml", "--formt", "csv"], ["run", "x", "--threads", "0"]]
)
def test_a_bad_command_line_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == EXIT_USAGE
    assert "harness" in capsys.readouterr().err


def test_a_misspelt_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["paln"])
    assert "did you mean 'plan'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "near"),
    [
        (["gate", "x.yaml", "--agianst", "HEAD"], "usage: harness gate", "did you mean '--against'?"),
        (["run", "x.yaml", "--formt=csv"], "usage: harness run", "did you mean '--format'?"),
        (["run", "x.yaml", "y.yaml"], "usage: harness run", "unrecognized arguments: y.yaml"),
    ],
)
def test_a_misspelt_option_names_the_nearest_of_its_command(
    arguments: list[str], usage: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    assert error.startswith(usage)
    assert error.rstrip().endswith(near)


def test_an_error_of_its_own_is_no_regression(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a planted bug")

    monkeypatch.setattr("harness.cli.gating.open_side", broken)
    monkeypatch.setattr("harness.cli.gating.rules_from", lambda *_: None)
    monkeypatch.setattr("harness.records.store.RunFolder.open", lambda _: type("Run", (), {"header": Path("x")}))
    assert main(["compare", str(tmp_path), str(tmp_path)]) == EXIT_USAGE
    error = capsys.readouterr().err
    assert "RuntimeError: a planted bug" in error
    assert error.rstrip().endswith("nothing is known")


def tensor_suite(folder: Path) -> Path:
    """A suite over a real tiny checkpoint, run by the native engine."""
    suite = {
        "question": "Is the checkpoint whole?",
        "threads": 1,
        "tables": {
            "tiny": {
                "question": "Does it load?",
                "checkpoint": "checkpoint",
                "baseline": {"form": "mqa"},
                "variants": [{"form": "mqa"}],
                "workloads": [{"kind": "prefill", "length": 8, "context": "random"}],
            }
        },
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


@pytest.mark.parametrize(
    ("damage", "parts"),
    [("missing", ["is missing", "model.safetensors"]), ("misshapen", ["has shape [3]", "expected [64]"])],
)
def test_a_damaged_checkpoint(tmp_path: Path, refused: Shell, damage: str, parts: list[str]) -> None:
    from safetensors.torch import load_file, save_file

    save_checkpoint(tmp_path / "checkpoint", "deepseek_v3", seed=1)
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    norm = tensors.pop("model.norm.weight")
    if damage == "misshapen":
        tensors["model.norm.weight"] = norm[:3].clone()
    save_file(tensors, file)
    message = refused("run", tensor_suite(tmp_path), "--out", tmp_path / "results", started=True)
    for part in ["model.norm.weight", *parts]:
        assert part in message
    assert list((tmp_path / "results").glob("*")) == []
