"""The same documents on two sides: joined by task and id, refused when they are not the same, differences by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]
Key = tuple[str, Any, str]
"""Task, document id, answer filter."""
SHOWN = 3
"""How many documents are named in a reason."""


class NotTheSameError(Exception):
    """The sides do not answer the same documents; the message says which are missing or differ."""


@dataclass(frozen=True)
class Joined:
    """Documents of both sides, in one order."""

    base: list[Document]
    new: list[Document]

    @classmethod
    def of(cls, base: Sequence[Document], new: Sequence[Document]) -> Joined:
        """Join by key. Raises NotTheSameError when one side has none, lacks some, or has others under the same id."""
        former, present = _by_key(base), _by_key(new)
        if not former or not present:
            raise NotTheSameError(f"the {'new run' if former else 'base'} has no per-document results")
        _require(not (former.keys() - present.keys()), "the new run lacks", former.keys() - present.keys())
        _require(not (present.keys() - former.keys()), "the base lacks", present.keys() - former.keys())
        unlike = {key for key, one in former.items() if _content(one) != _content(present[key])}
        _require(not unlike, "other text or target in", unlike)
        return cls(list(former.values()), [present[key] for key in former])

    def __len__(self) -> int:
        return len(self.base)

    @property
    def same_computation(self) -> bool:
        """Whether every log-likelihood is bit for bit the same, so that no score can differ on any document."""
        return all(
            one.get("log_likelihoods") and one["log_likelihoods"] == other.get("log_likelihoods")
            for one, other in zip(self.base, self.new, strict=True)
        )

    @property
    def answers_changed(self) -> int | None:
        """Documents whose answer is another one, right or wrong; None for tasks without answers."""
        if not all("answer" in document for document in self.base):
            return None
        return sum(one["answer"] != other.get("answer") for one, other in zip(self.base, self.new, strict=True))

    def losses(self, metric: str, higher_is_better: bool) -> Losses:
        """How much worse the new side does, document by document.

        Raises NotTheSameError when the metric is one of the whole set, which documents have no score of.
        """
        pairs = [(score(one, metric), score(other, metric)) for one, other in zip(self.base, self.new, strict=True)]
        kept = [(index, one, other) for index, (one, other) in enumerate(pairs) if one is not None is not other]
        if not kept:
            raise NotTheSameError(f"documents have no {metric} of their own, so it cannot be paired")
        sign = 1.0 if higher_is_better else -1.0
        values = [sign * (one - other) for _, one, other in kept if one is not None and other is not None]
        units = [_unit(self.base[index]) for index, _, _ in kept]
        right_or_wrong = all(value in (0.0, 1.0) for _, *both in kept for value in both)
        return Losses(values, units, right_or_wrong)


@dataclass(frozen=True)
class Losses:
    """One loss a document, positive when the new side is worse, and the independent unit that each belongs to."""

    values: list[float]
    units: list[Any]
    right_or_wrong: bool
    """Whether every score is 0 or 1."""

    @property
    def clustered(self) -> bool:
        """Whether several documents share a unit."""
        return len(set(self.units)) < len(self.units)

    @property
    def lost(self) -> int:
        """Documents that only the base answers right (or better)."""
        return sum(value > 0 for value in self.values)

    @property
    def gained(self) -> int:
        """Documents that only the new side answers right (or better)."""
        return sum(value < 0 for value in self.values)

    def by_unit(self) -> tuple[list[float], list[int]]:
        """Sum of losses and number of documents of every unit."""
        sums: dict[Any, float] = {}
        sizes: dict[Any, int] = {}
        for unit, value in zip(self.units, self.values, strict=True):
            sums[unit] = sums.get(unit, 0.0) + value
            sizes[unit] = sizes.get(unit, 0) + 1
        return list(sums.values()), list(sizes.values())


def score(document: Document, metric: str) -> float | None:
    """A document's own score of a metric as a record names it: `acc`, `exact_match[filter]`, `task.acc`, `log_loss`."""
    if metric == "log_loss":
        return document.get("log_loss")
    for name, value in document.get("scores", {}).items():
        label = name if document["filter"] == "none" else f"{name}[{document['filter']}]"
        if metric in (label, f"{document['task']}.{label}"):
            return None if value is None else float(value)
    return None


def _by_key(documents: Sequence[Document]) -> dict[Key, Document]:
    return {(document["task"], document["doc_id"], document["filter"]): document for document in documents}


def _content(document: Document) -> tuple[Any, ...]:
    return document.get("doc_hash"), document.get("target"), document.get("tokens")


def _unit(document: Document) -> Any:
    """Documents that share a text share a `cluster`; answer filters of one document are one unit too."""
    return document["task"], document.get("cluster", ("document", document["doc_id"]))


def _require(same: bool, what: str, keys: set[Key]) -> None:
    if not same:
        named = ", ".join(f"{task} {number}" for task, number, _ in sorted(keys, key=str)[:SHOWN])
        raise NotTheSameError(f"{what} {len(keys)} documents: {named}{' ...' if len(keys) > SHOWN else ''}")
