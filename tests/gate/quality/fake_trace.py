"""Traces made of planted noise, for whatever replays one."""

from __future__ import annotations

import numpy as np

from harness.contract.planted import Planted
from harness.gate.quality.trace import BASE, BIMODAL, SLOWER, CellTurns, Header, Pairs, Session, Trace, TracedCell
from harness.suite.schema import Decode, Prefill

CELLS = [
    TracedCell("decode", Decode(512, context="random"), "tpot", 1),
    TracedCell("prefill", Prefill(256, context="random"), "ttft", 3),
]


def fake_trace(sessions: int, rounds: int = 20, samples: int = 4, noise: float = 0.01, seed: int = 0) -> Trace:
    """Turns of about 2 ms with drift, heavy tails and slow-downs as named; 0.6 s of wall time each: 5 pairs a visit."""
    rng = np.random.default_rng(seed)
    planted = {name: Planted(slower=slower) for name, slower in SLOWER.items()}
    header = Header("fake", 0, "tiny-v3", "native", 0, CELLS, planted, {}, "2026-01-01T00:00:00+00:00")
    made = [_session(number, rounds, samples, noise, rng) for number in range(sessions)]
    return Trace(header, made)


def _session(number: int, rounds: int, samples: int, noise: float, rng: np.random.Generator) -> Session:
    cells = {cell.name: _turns(rounds, samples, noise, rng) for cell in CELLS}
    return Session(number, 60.0 * number, 10.0, 60.0, [0.1, 0.1, 0.1], cells)


def _turns(rounds: int, samples: int, noise: float, rng: np.random.Generator) -> CellTurns:
    drift = 0.1 * np.sin(np.arange(rounds) / 5 + rng.uniform(0, 6))[:, None]

    def times(longer: np.ndarray) -> list[list[int]]:
        log = drift + np.log1p(longer) + noise * rng.standard_t(3, (rounds, samples))
        return np.round(2000 * np.exp(log)).astype(int).tolist()

    pairs = {}
    for name, slower in SLOWER.items():
        longer = np.full((rounds, samples), slower)
        if name == BIMODAL:
            longer = 2 * slower * (rng.random((rounds, samples)) < 0.5)
        if name != BASE:
            coins = [bool(coin) for coin in rng.random(rounds) < 0.5]
            pairs[name] = Pairs(coins, times(np.zeros((rounds, samples))), times(longer), [0] * rounds)
    return CellTurns(0.6, pairs)
