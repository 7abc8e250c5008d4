"""A ref's files appear in a folder of their own, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.gate.live.worktree import Repository
from tests.support.repository import TestRepository


@pytest.fixture
def repository(tmp_path: Path) -> TestRepository:
    """Two commits of one file, and an uncommitted change."""
    made = TestRepository.of(tmp_path / "repository", {"code.py": "one", "deep/plugin.py": "old"})
    made.write({"code.py": "two"})
    made.commit("second")
    made.write({"code.py": "three"})
    return made


def test_a_ref_is_checked_out_beside_the_working_tree_and_removed(repository: TestRepository) -> None:
    found = Repository.around(repository.root / "deep" / "plugin.py")
    for ref, content in (("HEAD~1", "one"), ("main", "two")):
        with found.worktree(found.commit(ref)) as tree:
            assert (tree.root / "code.py").read_text() == content
            assert repository.worktrees == [str(repository.root), str(tree.root)]
        assert not tree.root.parent.exists()
        assert repository.worktrees == [str(repository.root)]
    assert (repository.root / "code.py").read_text() == "three"


@pytest.mark.parametrize("error", [KeyboardInterrupt, UsageError, RuntimeError])
def test_it_is_removed_whatever_happens(repository: TestRepository, error: type[BaseException]) -> None:
    found = Repository.around(repository.root)
    places: list[Path] = []

    def use() -> None:
        with found.worktree(found.commit("main")) as tree:
            places.append(tree.root)
            raise error("planted")

    with pytest.raises(error):
        use()
    assert not places[0].exists()
    assert repository.worktrees == [str(repository.root)]


def test_places_in_the_repository_have_a_twin_and_others_are_the_same(
    repository: TestRepository, tmp_path: Path
) -> None:
    found = Repository.around(repository.root)
    outside, installed = tmp_path / "elsewhere.py", repository.root / ".venv/lib/site-packages/harness"
    with found.worktree(found.commit("main")) as tree:
        assert tree.of(repository.root / "deep" / "plugin.py") == tree.root / "deep" / "plugin.py"
        assert tree.of(repository.root) == tree.root
        assert (tree.of(outside), tree.of(installed)) == (outside, installed)
        assert tree.places([str(repository.root / "deep"), "/usr/lib"]) == [str(tree.root / "deep"), "/usr/lib"]


def test_an_unknown_ref_names_the_nearest(repository: TestRepository) -> None:
    with pytest.raises(UsageError, match=r"--against mian: unknown git ref 'mian'; did you mean 'main'\?.*git fetch"):
        Repository.around(repository.root).commit("mian")


def test_a_ref_that_looks_like_a_flag_is_no_flag(repository: TestRepository) -> None:
    with pytest.raises(UsageError, match="unknown git ref"):
        Repository.around(repository.root).commit("--help")


def test_without_a_repository_it_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--against needs a git repository around it"):
        Repository.around(tmp_path)
