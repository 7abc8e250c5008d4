"""Top-k is exact, ties included: against the eager reference, which is tested against sorting."""

from __future__ import annotations

import pytest
import torch
from harness_plugins.triton_kernels.launch import interpreted
from harness_plugins.triton_kernels.select_topk import LAST_PIECE, PIECE, piece_of, select_topk
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.contract.operators import reference_operators
from tests.triton_kernels.against_eager import poisoned_memory


def _require_equal(scores_BTS: Tensor, count: int, device: str) -> None:
    expected = reference_operators().select_topk(scores_BTS, count)
    with poisoned_memory():
        got = select_topk(scores_BTS.to(device), count)
    assert got.dtype == torch.int64
    assert got.tolist() == expected.tolist()


SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, -3e38, torch.inf, -torch.inf, 0.1, 0.10000001]


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 2), keys=st.integers(1, 90), data=st.data())
def test_few_different_scores(rows: int, keys: int, data: st.DataObject, device: str) -> None:
    """Many ties, both zeros, denormal and infinite scores; rows of one piece and of several rounds."""
    values = data.draw(st.lists(st.sampled_from(SPECIAL), min_size=1, max_size=4))
    drawn = data.draw(st.lists(st.sampled_from(values), min_size=rows * keys, max_size=rows * keys))
    scores = torch.tensor(drawn, dtype=torch.float32).view(1, rows, keys)
    _require_equal(scores, data.draw(st.integers(1, keys)), device)


@settings(max_examples=12, deadline=None)
@given(keys=st.integers(1, 110), seed=st.integers(0, 99), levels=st.sampled_from([2, 9, 10**6]), data=st.data())
def test_random_scores(keys: int, seed: int, levels: int, data: st.DataObject, device: str) -> None:
    scores = torch.randn(2, 1, keys, generator=torch.Generator().manual_seed(seed))
    scores = (scores * levels).round() / levels
    hidden = data.draw(st.integers(0, keys))
    scores[1, 0, keys - hidden :] = -torch.inf
    _require_equal(scores, data.draw(st.integers(1, keys)), device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_that_are_views(dtype: torch.dtype, device: str) -> None:
    wide = torch.randn(3, 4, 60, generator=torch.Generator().manual_seed(1)).to(dtype)
    _require_equal(wide[1:, ::2, 3:50], 5, device)


def test_a_selection_depends_on_the_row_s_scores_alone(device: str) -> None:
    """Beside other rows, and beside more keys that it does not see."""
    scores = (torch.randn(1, 4, 70, generator=torch.Generator().manual_seed(2)) * 2).round().to(device)
    whole = select_topk(scores, 9)
    padded = torch.nn.functional.pad(scores, (0, 31), value=-torch.inf)
    assert torch.equal(select_topk(padded, 9), whole)
    assert all(torch.equal(select_topk(scores[:, t : t + 1], 9)[0, 0], whole[0, t]) for t in range(4))


@pytest.mark.skipif(interpreted(), reason="takes minutes when interpreted")
@pytest.mark.parametrize("keys", [2047, 30001, 70001, 163840])
@pytest.mark.parametrize("levels", [3, 1000, 10**6])
def test_long_rows(keys: int, levels: int, device: str) -> None:
    """One round and two, with many ties and few."""
    scores = torch.randn(1, 3, keys, generator=torch.Generator().manual_seed(keys))
    scores = (scores * levels).round() / levels
    scores[0, 1, keys // 3 :] = -torch.inf
    _require_equal(scores, min(2048, keys), device)


def test_no_rows(device: str) -> None:
    assert select_topk(torch.zeros(2, 0, 40, device=device), 7).shape == (2, 0, 7)


def test_scores_that_would_be_rounded_are_refused(device: str) -> None:
    with pytest.raises(TypeError, match="float64"):
        select_topk(torch.zeros(1, 1, 4, dtype=torch.float64, device=device), 2)


@pytest.mark.parametrize("count", [1, 2048, 20000, 100000])
@pytest.mark.parametrize("keys", [1, 2047, 2049, 32768, 32769, 131072, 163840, 1 << 20])
def test_a_tournament_ends(keys: int, count: int) -> None:
    """Every round leaves less of a row, and V3.2's longest rows take two."""
    count, left, rounds = min(count, keys), keys, 1
    while (piece := piece_of(left, count, (9, 0))) < left:
        handed_on = -(-left // piece) * count
        assert handed_on < left
        left, rounds = handed_on, rounds + 1
    assert rounds <= 2 or keys > 163840 or count > 2048
    assert piece <= LAST_PIECE or count > PIECE // 2
