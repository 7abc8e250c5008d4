"""What each side of a live gate is made of: packages, plugins and search paths of its own version."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from harness.contract.registry import Registry
from harness.gate.live import against
from harness.gate.live.against import one_thread
from harness.gate.live.side import LiveSide
from harness.gate.live.stage import Stage
from harness.gate.live.worktree import Repository
from harness.run.plan import Plan, make_plan
from harness.suite.load import Changes, load_suite
from tests.gate.live.planted import FACTS
from tests.run.planted import Quiet
from tests.support.repository import TestRepository

GATE = {"rules": [{"metrics": "ttft", "limit": "relative"}]}


@pytest.fixture
def repository(tmp_path: Path) -> TestRepository:
    return TestRepository.of_project(tmp_path / "repository", ["sound"], [16], gate=GATE)


def planned(repository: TestRepository, plugins: list[str], **changes: int) -> tuple[Plan, Registry]:
    registry = Registry(plugins, entry_points=False)
    suite = load_suite(repository.root / "faults.yaml", Changes(**changes))  # type: ignore[arg-type]
    return make_plan(suite, registry, FACTS, plugins), registry


def sides(
    repository: TestRepository, plugins: list[str], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[LiveSide, LiveSide]:
    """Base and new, of a gate against HEAD."""
    monkeypatch.setattr(against, "package_root", lambda: repository.root)
    found = Repository.around(repository.root)
    plan, registry = planned(repository, plugins)
    with found.worktree(found.commit("HEAD")) as tree:
        gate = against._Start(plan, registry, Stage(Quiet()), tree, "HEAD", scratch).gate(False)
        (scratch / "tree").write_text(str(tree.root))
    return gate.base, gate.new


def test_the_base_is_the_worktree_in_everything_that_the_repository_has(
    repository: TestRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = repository.root / "engine.py", tmp_path / "outside.py"
    outside.write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository.root / "plugins"), "/usr/lib"]))
    (tmp_path / "scratch").mkdir()
    base, new = sides(repository, [str(inside), str(outside)], tmp_path / "scratch", monkeypatch)
    tree = Path((tmp_path / "scratch" / "tree").read_text())
    assert (base.version.root, new.version.root) == (tree, repository.root)
    assert base.version.plugins == [str(tree / "engine.py"), str(outside)]
    assert new.version.plugins == [str(inside), str(outside)]
    assert base.version.python_path == [str(tree / "plugins"), "/usr/lib"]
    assert (base.version.name, new.version.name) == ("HEAD", "working tree")
    assert (base.version.is_base, new.version.is_base) == (True, False)


def test_a_plugin_that_the_ref_does_not_have_is_left_out_there(
    repository: TestRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = repository.root / "added.py"
    added.write_text("")
    (tmp_path / "scratch").mkdir()
    plugins = [str(repository.root / "engine.py"), str(added)]
    base, new = sides(repository, plugins, tmp_path / "scratch", monkeypatch)
    assert [Path(plugin).name for plugin in base.version.plugins] == ["engine.py"]
    assert [Path(plugin).name for plugin in new.version.plugins] == ["engine.py", "added.py"]


def test_both_sides_know_their_commit(
    repository: TestRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = repository.git("rev-parse", "HEAD")
    engine = repository.root / "engine.py"
    engine.write_text(engine.read_text() + "# changed\n")
    (tmp_path / "scratch").mkdir()
    base, new = sides(repository, [str(engine)], tmp_path / "scratch", monkeypatch)
    assert base.context["git"] == {"commit": head, "dirty": False}
    assert new.context["git"] == {"commit": head, "dirty": True}


def test_what_lies_outside_the_repository_is_said_to_be_the_same(repository: TestRepository, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("")
    plan, _ = planned(repository, [str(repository.root / "engine.py"), str(outside)])
    found = Repository.around(repository.root)
    with found.worktree(found.commit("HEAD")) as tree:
        notes = against._same_on_both(plan, tree)
    assert notes[0] == "the package harness is installed: the same version on both sides"  # it is this checkout's
    assert notes[1:] == [f"plugin {outside} lies outside the repository: the same on both sides"]


def test_a_cpu_gate_takes_one_thread_unless_the_suite_says_how_many(repository: TestRepository) -> None:
    plan, _ = planned(repository, [str(repository.root / "engine.py")], threads=3)
    assert one_thread(plan).threads == 3
    suite = repository.root / "faults.yaml"
    suite.write_text(suite.read_text().replace("threads: 1\n", ""))
    free, _ = planned(repository, [str(repository.root / "engine.py")])
    assert one_thread(replace(free, threads=8)).threads == 1
    gpu = replace(free, threads=8, facts=structs.replace(free.facts, device="cuda"))
    assert one_thread(gpu).threads == 8


def test_workers_are_forked_on_both_sides_or_on_none(
    repository: TestRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older ref does not know how; its workers would start otherwise than those of the working tree."""
    (tmp_path / "scratch").mkdir()
    asked: list[Path] = []

    def possible(root: Path) -> bool:
        asked.append(root)
        return root == repository.root

    monkeypatch.setattr(against.Nursery, "is_possible", staticmethod(possible))
    base, new = sides(repository, [str(repository.root / "engine.py")], tmp_path / "scratch", monkeypatch)
    assert (base.version.forks, new.version.forks) == (False, False)
    assert {base.version.root} == set(asked)
