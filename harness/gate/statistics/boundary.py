"""Coins looked at several times: how many heads are too many, exactly, and how soon so many are seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from scipy import optimize, special


@lru_cache(maxsize=256)
def boundary(looks: tuple[int, ...], alpha: float) -> tuple[int, ...]:
    """How many of the first n fair coins must show heads at each look, so that this ever happens with at most alpha.

    Exact: the distribution of the count is carried from look to look without the paths that have stopped. Look l of L
    may have spent alpha l / L in all, so what the discreteness of an early look leaves over goes to later ones
    (Lan and DeMets 1983, with linear spending in looks). A look that cannot fire gets its n + 1.
    """
    thresholds, spent, alive, before = [], 0.0, np.ones(1), 0
    for number, look in enumerate(looks, 1):
        alive = np.convolve(alive, _coin_flips(look - before, 0.5))
        tail = np.append(np.cumsum(alive[::-1])[::-1], 0.0)
        threshold = int(np.argmax(tail <= alpha * number / len(looks) - spent))
        spent += float(tail[threshold])
        alive[threshold:] = 0.0
        thresholds.append(threshold)
        before = look
    return tuple(thresholds)


def crossed_by(looks: tuple[int, ...], alpha: float, heads: float) -> list[float]:
    """The chance that coins which show heads with chance `heads` have crossed the boundary, by each look."""
    return list(np.cumsum(list(_crossing(looks, boundary(looks, alpha), heads))))


@lru_cache(maxsize=256)
def heads_needed(looks: tuple[int, ...], alpha: float, number: int, sure: float) -> float | None:
    """The chance of heads with which coins have crossed by look `number` with chance `sure`; None when nothing can."""

    def short(heads: float) -> float:
        return crossed_by(looks, alpha, heads)[number] - sure

    return float(optimize.brentq(short, 0.5, 1.0, xtol=1e-9)) if short(1.0) > 0 else None


def _crossing(looks: tuple[int, ...], thresholds: tuple[int, ...], heads: float) -> Iterator[float]:
    """The chance of crossing first at each look."""
    alive, before = np.ones(1), 0
    for look, threshold in zip(looks, thresholds, strict=True):
        alive = np.convolve(alive, _coin_flips(look - before, heads))
        yield float(alive[threshold:].sum())
        alive[threshold:] = 0.0
        before = look


def sign_p(heads: int, pairs: int) -> float:
    """P(at least `heads` of `pairs` fair coins show heads)."""
    return 1.0 if heads <= 0 else float(special.bdtrc(heads - 1, pairs, 0.5))


def _coin_flips(count: int, heads: float) -> np.ndarray:
    """P(k of `count` coins show heads), k = 0 .. count."""
    k = np.arange(count + 1)
    ways = special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(count - k + 1)
    return np.exp(ways + special.xlogy(k, heads) + special.xlog1py(count - k, -heads))
