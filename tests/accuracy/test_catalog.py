"""Finding tasks: own, by file, stock; and saying what is wrong at once."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from huggingface_hub import constants

from harness import corpus
from harness.errors import UsageError
from harness.measure import accuracy_tasks, haystack, retrieval_tasks
from harness.measure.accuracy_catalog import find_task, require_hub, tasks_folder

RETRIEVAL = ("needle", "needles", "tracking", "recall")
DOCUMENTS = 3
OWN_TASK = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: question
doc_to_choice: [red, green]
doc_to_target: answer
"""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def own_files() -> list[Path]:
    return sorted(tasks_folder().glob("[!_]*.yaml"))


@pytest.mark.parametrize("path", own_files(), ids=lambda path: path.stem)
def test_every_own_task_is_named_after_its_length(path: Path) -> None:
    config = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    assert set(config) == {"include", "task", "metadata"}
    assert config["task"] == path.stem == f"{path.stem.rpartition('_')[0]}_{config['metadata']['length']}"
    assert (path.parent / config["include"]).is_file()


@pytest.mark.parametrize("path", own_files(), ids=lambda path: path.stem)
def test_every_own_task_loads_and_keeps_its_promise(
    path: Path, checkpoint: Path, tokenizer: Any, few_documents: None
) -> None:
    task = find_task(path.stem, str(checkpoint))
    assert task.own
    assert path.stem.endswith(f"_{task.length}")
    documents = task.tasks[path.stem].test_docs()
    assert len(documents) == DOCUMENTS
    for document in documents:
        start = document.get("prompt", document.get("context", ""))
        ends = document.get("choices") or [document.get("text", "")]
        assert {len(tokenizer.encode(start + end)) for end in ends} == {task.length}


@pytest.fixture
def few_documents(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every maker of documents makes `DOCUMENTS`, from less text: what is looked at is that the files fit them."""
    for module, names in ((accuracy_tasks, ("bits_per_byte", "continuation")), (retrieval_tasks, RETRIEVAL)):
        for name in names:
            made = functools.partial(_make, getattr(module, name))
            monkeypatch.setattr(module, name, made)
    held_out = corpus.split("held_out")
    monkeypatch.setattr(haystack, "split", lambda _: msgspec.structs.replace(held_out, text=held_out.text[:100_000]))
    yield
    haystack.Haystack.of.cache_clear()


def _make(maker: Any, **given: Any) -> Any:
    return maker(**given | {"documents": DOCUMENTS})


def test_own_tasks_have_enough_documents(checkpoint: Path) -> None:
    sizes = {
        name: len(find_task(name, str(checkpoint)).tasks[name].test_docs())
        for name in ("needle_512", "continuation_512")
    }
    assert sizes == {"needle_512": 500, "continuation_512": 256}


@pytest.mark.parametrize("name", ["needles_512", "continuation_512", "bits_per_byte_512"])
def test_a_limit_makes_the_first_documents_only(name: str, checkpoint: Path) -> None:
    few, all_of_them = (find_task(name, str(checkpoint), limit=limit).tasks[name].test_docs() for limit in (5, None))
    assert list(few) == list(all_of_them)[:5]


def test_continuation_documents_are_fair(checkpoint: Path) -> None:
    documents = find_task("continuation_512", str(checkpoint)).tasks["continuation_512"].test_docs()
    golds = [document["gold"] for document in documents]
    assert {0, 1, 2, 3} == set(golds)
    assert max(golds.count(place) for place in range(4)) < 90
    for document in documents:
        assert len(set(document["choices"])) == 4
        assert document["context"].endswith("\n")


def test_a_task_in_a_file_of_its_own(tmp_path: Path, checkpoint: Path, no_network: None) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "grass", "answer": 1}\n')
    (tmp_path / "colours.yaml").write_text(OWN_TASK.replace("FILE", str(data)))
    task = find_task(str(tmp_path / "colours.yaml"), str(checkpoint))
    assert (task.name, list(task.tasks), task.own, task.length) == ("colours", ["colours"], False, None)
    with pytest.raises(UsageError, match="not there"):
        find_task(str(tmp_path / "shapes.yaml"), str(checkpoint))


def test_a_stock_task_without_network_is_refused_at_once(checkpoint: Path, no_network: None) -> None:
    find_task("bits_per_byte_256", str(checkpoint))  # own tasks need no network
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"'x' reads a data set from https://.* cannot be reached .*HF_HUB_OFFLINE"):
        require_hub("x")
    assert time.monotonic() - start < 1


def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    require_hub("x")


@pytest.mark.slow
def test_stock_tasks_are_found_and_unknown_ones_get_a_hint(checkpoint: Path, no_network: None) -> None:
    with pytest.raises(UsageError, match="task 'wikitext' reads a data set"):
        find_task("wikitext", str(checkpoint))
    with pytest.raises(UsageError, match="unknown lm-eval task 'bits_per_bite_512'; did you mean 'bits_per_byte_512'"):
        find_task("bits_per_bite_512", str(checkpoint))
