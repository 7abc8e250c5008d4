"""Finds the lm-eval task that a suite names: the project's own, a YAML file, or a stock one of lm-eval.

lm-eval's stock index takes seconds and its data sets need a network, so both are touched only for a name that is
not the project's own, and an unreachable hub is said at once instead of after lm-eval's retries.
"""

from __future__ import annotations

import difflib
import logging
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
from harness.errors import UsageError, unknown

HUB_TIMEOUT = 3.0
"""Seconds to wait for the hub's answer."""

LOCAL_LOADERS = frozenset({"json", "csv", "text", "parquet", "arrow"})
"""Values of `dataset_path` that read local files."""


@dataclass(frozen=True)
class FoundTask:
    """A task ready to run: what `simple_evaluate` takes."""

    name: str
    manager: Any
    """lm-eval's TaskManager that found it."""
    objects: list[Any]
    """lm-eval's Group for a group, else its Tasks (several for a tag)."""
    tasks: dict[str, Any]
    """Every leaf Task by name."""
    length: int | None
    """Tokens that every document promises to have: `metadata: {length: N}` of the project's own tasks."""
    own: bool
    """True when the documents come from the corpus."""


def tasks_folder() -> Path:
    """Where the project's own task files are: inside the package, so that an installed wheel has them."""
    return Path(harness.__path__[0]) / "tasks"


def find_task(name: str, checkpoint: str, folder: Path | None = None, limit: int | None = None) -> FoundTask:
    """Look `name` up among own tasks, as a YAML file, or among lm-eval's, and load its documents.

    `checkpoint` goes to tasks that size their documents in its tokens; own tasks make no more documents than `limit`.
    Raises UsageError for an unknown name (with the nearest), for a hub that cannot be reached, and for data that cannot
    be loaded.
    """
    quieten()
    folder = folder or tasks_folder()
    metadata = {"pretrained": checkpoint}
    manager = _manager([folder], metadata | {"limit": limit}, stock=False)
    own = name in manager.task_index
    if name.endswith((".yaml", ".yml")):
        manager = _manager([Path(name).resolve().parent], metadata, stock=False)
        name = _name_in_file(manager, Path(name))
    elif not own:
        manager = _manager([folder], metadata, stock=True)
    if name not in manager.task_index:
        raise unknown("lm-eval task", name, _nearby(name, manager.all_tasks, folder))
    if not own and _needs_hub(manager.task_index[name].cfg or {}):
        require_hub(name)
    loaded = _load(manager, name)
    objects = [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())
    promised = ((manager.task_index[name].cfg or {}).get("metadata") or {}).get("length")
    return FoundTask(name, manager, objects, loaded["tasks"], promised if own else None, own)


def quieten() -> None:
    """Only errors of lm-eval, no progress bars of `datasets`: the harness reports progress itself.

    Nor does lm-eval describe the machine after every evaluation, for which it runs pip and compilers: three seconds a
    cell for what every record says anyway.
    """
    import datasets
    from lm_eval import evaluator

    evaluator.add_env_info = _no_description
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


def _no_description(_: dict[str, Any]) -> None:
    """Stands for `lm_eval.loggers.utils.add_env_info`."""


def require_hub(task: str) -> None:
    """Raise UsageError at once when the Hugging Face hub cannot be reached; HF_HUB_OFFLINE=1 relies on the cache."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT)
    except urllib.error.HTTPError:
        return  # it answered
    except OSError as error:
        raise UsageError(
            f"task {task!r} reads a data set from {constants.ENDPOINT}, which cannot be reached from here ({error}); "
            "name one of the project's own tasks, or set HF_HUB_OFFLINE=1 when the data set is in the local cache"
        ) from None


def _manager(folders: list[Path], metadata: dict[str, Any], stock: bool) -> Any:
    from lm_eval.tasks import TaskManager

    include: list[str | Path] = [str(folder) for folder in folders if folder.is_dir()]
    return TaskManager(include_path=include, include_defaults=stock, metadata=metadata)


def _name_in_file(manager: Any, path: Path) -> str:
    """The name of the task that a YAML file defines."""
    for name, entry in manager.task_index.items():
        if entry.yaml_path and Path(entry.yaml_path).resolve() == path.resolve():
            return str(name)
    raise UsageError("not there" if not path.exists() else "not an lm-eval task: no key `task`", str(path))


def _needs_hub(config: dict[str, Any]) -> bool:
    """True unless the task brings its own data: a function, local files, or a folder that exists."""
    path = str(config.get("dataset_path") or "")
    return not ("custom_dataset" in config or path in LOCAL_LOADERS or (path and Path(path).exists()))


def _load(manager: Any, name: str) -> dict[str, Any]:
    from datasets.exceptions import DatasetsError

    try:
        loaded: dict[str, Any] = manager.load([name])
    except (OSError, DatasetsError) as error:
        raise UsageError(f"the data of task {name!r} cannot be loaded: {error}") from None
    return loaded


def _nearby(name: str, names: list[str], folder: Path) -> list[str]:
    """A few of lm-eval's thousands of names: the nearest, else the project's own."""
    near = difflib.get_close_matches(name, names, n=8)
    return near or [path.stem for path in sorted(folder.glob("[!_]*.yaml"))]
