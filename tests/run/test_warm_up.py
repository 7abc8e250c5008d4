"""A worker warms up until it gets no faster, within what the parent allows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.run import worker


@pytest.mark.parametrize(
    ("seconds", "least", "most", "expected"),
    [
        ((9, 5, 5, 5), 1, 5, 3),  # the third is no faster than the second
        ((9, 8, 7, 6, 5), 1, 4, 4),  # still warming at the limit
        ((5, 5, 5), 1, 5, 2),  # one is never enough to know, two are when they are alike
        ((5, 5, 5), 3, 5, 3),
        ((9, 5, 4), 2, 0, 2),  # the suite's own number outranks the limit
        ((9,), 1, 1, 1),
        ((), 0, 0, 0),
        ((5, 4.9, 4.8), 1, 5, 2),  # two percent is noise, not warming
    ],
)
def test_repetitions(
    monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float], least: int, most: int, expected: int
) -> None:
    now = 0.0
    done = 0

    def repeat() -> None:
        nonlocal now, done
        now += seconds[done]
        done += 1

    monkeypatch.setattr(worker.time, "perf_counter", lambda: now)
    assert worker.warm_up(repeat, least, most) == (sum(seconds[:expected]), seconds[expected - 1] if expected else 0)
    assert done == expected
