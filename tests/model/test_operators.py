"""The eager operators against the plainest possible reading of their documentation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.contract.registry import Registry
from harness.contract.span import Span

EAGER = Registry(entry_points=False).option("kernels", "eager").load()


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- top-k and its tie rule -----------------------------------------------------------------------------


def _by_sorting(scores_S: Tensor, count: int) -> list[int]:
    """The rule as it is declared: highest first, of equals the lowest position first; unseen keys never."""
    order = sorted(range(len(scores_S)), key=lambda s: (-scores_S[s].item(), s))
    chosen = sorted(s for s in order[:count] if scores_S[s] > -torch.inf)
    return chosen + [-1] * (count - len(chosen))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4),
    keys=st.integers(1, 120),
    levels=st.sampled_from([1, 2, 5, 1000]),
    unseen=st.integers(0, 119),
    data=st.data(),
)
def test_select_topk_is_a_stable_sort(rows: int, keys: int, levels: int, unseen: int, data: st.DataObject) -> None:
    """Few levels make many ties, of +0.0 and -0.0 too; -inf stands for keys that a query does not see."""
    count = data.draw(st.integers(1, keys))
    draw = st.lists(st.integers(0, levels - 1), min_size=rows * keys, max_size=rows * keys)
    scores_TS = torch.tensor(data.draw(draw), dtype=torch.float32).view(rows, keys) - levels // 2
    scores_TS[scores_TS == 0] = -0.0
    scores_TS[:, ::2].add_(0.0)
    scores_TS[0, keys - min(unseen, keys - 1) :] = -torch.inf
    selected_TK = EAGER.select_topk(scores_TS[None], count)[0]
    assert selected_TK.tolist() == [_by_sorting(scores_S, count) for scores_S in scores_TS]


def test_select_topk_does_not_depend_on_the_shape() -> None:
    """A row alone, in a batch, and beside more unseen keys: the same selection, though most scores are ties."""
    scores_TS = (_randn(50, 700, seed=1, dtype=torch.float32) * 2).round().relu()
    whole = EAGER.select_topk(scores_TS[None], 32)[0]
    for t in range(50):
        assert torch.equal(EAGER.select_topk(scores_TS[None, t : t + 1], 32)[0, 0], whole[t])
    longer_TS = torch.nn.functional.pad(scores_TS, (0, 333), value=-torch.inf)
    assert torch.equal(EAGER.select_topk(longer_TS[None], 32)[0], whole)


# --- attention ------------------------------------------------------------------------------------------

SPANS = {
    "fresh": Span.fresh(2, 7),
    "decode": Span((12, 12), (13, 13), 1),
    "continued": Span((5, 5), (13, 13), 8),
    "ragged": Span((0, 9), (4, 13), 6),
}


def _naive(q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, scale: float, mask_BTS: Tensor) -> Tensor:
    scores = torch.einsum("bthq,bhsq->bhts", q_BTHQ, k_BHSQ) * scale
    return torch.einsum("bhts,bhsv->bthv", scores.masked_fill(~mask_BTS[:, None], -torch.inf).softmax(-1), v_BHSV)


def _real(span: Span) -> Tensor:
    """bool [B, T]: queries that are not padding."""
    return span.positions("cpu") < torch.tensor(span.ends)[:, None]


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_mha_attention(span: Span) -> None:
    q, k, v = _randn(2, span.width, 3, 6), _randn(2, 3, 13, 6, seed=1), _randn(2, 3, 13, 5, seed=2)
    expected = _naive(q, k[:, :, : span.end], v[:, :, : span.end], 0.3, span.visible("cpu"))
    got = EAGER.mha_attention(q, k, v, span, 0.3, None)
    torch.testing.assert_close(got[_real(span)], expected[_real(span)])


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_mqa_attention(span: Span) -> None:
    q, rows = _randn(2, span.width, 3, 6), _randn(2, 13, 6, seed=1)
    shared = rows[:, None, : span.end].expand(-1, 3, -1, -1)
    expected = _naive(q, shared, shared[..., :4], 0.3, span.visible("cpu"))
    got = EAGER.mqa_attention(q, rows, span, 0.3, 4)
    torch.testing.assert_close(got[_real(span)], expected[_real(span)])


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_rows_beyond_a_sequence_never_reach_a_result(span: Span) -> None:
    """Unwritten cache rows may hold NaN."""
    q, k, v = _randn(2, span.width, 3, 6), _randn(2, 3, 13, 6, seed=1), _randn(2, 3, 13, 5, seed=2)
    rows, index_q, index_k = _randn(2, 13, 6, seed=3), _randn(2, span.width, 4, 5), _randn(2, 13, 5, seed=1)
    for b, end in enumerate(span.ends):
        for cached in (k[b].transpose(0, 1), v[b].transpose(0, 1), rows[b], index_k[b]):
            cached[end:] = torch.nan
    real = _real(span)
    assert EAGER.mha_attention(q, k, v, span, 0.3, None)[real].isfinite().all()
    assert EAGER.mqa_attention(q, rows, span, 0.3, 4)[real].isfinite().all()
    scores = EAGER.index_scores(index_q, _randn(2, span.width, 4), index_k, span)
    assert not scores.isnan().any()


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_sparse_attention_is_masked_attention(span: Span) -> None:
    """Gathering the selected rows, and masking the others in either form."""
    q, rows = _randn(2, span.width, 3, 6), _randn(2, 13, 6, seed=1)
    visible = span.visible("cpu")
    selected = EAGER.select_topk(_randn(*visible.shape, seed=4).masked_fill(~visible, -torch.inf), 3)
    chosen = torch.zeros(*visible.shape[:2], span.end + 1, dtype=torch.bool)
    chosen = chosen.scatter(-1, torch.where(selected < 0, span.end, selected), True)[..., : span.end]
    shared = rows[:, None, : span.end].expand(-1, 3, -1, -1)
    expected = _naive(q, shared, shared[..., :4], 0.3, chosen & visible)
    gathered = EAGER.mqa_sparse_attention(q, rows, selected, 0.3, 4)
    masked = EAGER.mha_attention(q, shared, shared[..., :4], span, 0.3, selected.int())
    torch.testing.assert_close(gathered[_real(span)], expected[_real(span)])
    torch.testing.assert_close(masked[_real(span)], expected[_real(span)])


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_index_scores(span: Span) -> None:
    q, weights, k = _randn(2, span.width, 4, 5), _randn(2, span.width, 4, seed=1), _randn(2, 13, 5, seed=2)
    per_head = torch.einsum("btgi,bsi->btgs", q, k[:, : span.end]).relu()
    expected = torch.einsum("btg,btgs->bts", weights, per_head)
    visible = span.visible("cpu")
    got = EAGER.index_scores(q, weights, k, span)
    torch.testing.assert_close(got[visible], expected[visible])
    assert (got[~visible] == -torch.inf)[_real(span)[..., None].expand_as(visible)[~visible]].all()


def test_index_scores_are_fp32_for_bf16() -> None:
    q, weights, k = _randn(1, 4, 8, 16), _randn(1, 4, 8, seed=1), _randn(1, 4, 16, seed=2)
    rounded = [each.bfloat16() for each in (q, k)]
    got = EAGER.index_scores(rounded[0], weights.float(), rounded[1], Span.fresh(1, 4))
    expected = EAGER.index_scores(rounded[0].double(), weights, rounded[1].double(), Span.fresh(1, 4))
    assert got.dtype == torch.float32
    seen = expected > -torch.inf
    torch.testing.assert_close(got[seen].double(), expected[seen], rtol=1e-5, atol=1e-5)


# --- the rest -------------------------------------------------------------------------------------------


def test_rotary_layouts_have_equal_dot_products() -> None:
    """Interleaved pairs and the same pairs half-split give one result, in split layout; rotation keeps norms."""
    x, angles = _randn(2, 5, 8), _randn(2, 5, 4, seed=1)
    halves = torch.cat([x[..., 0::2], x[..., 1::2]], -1)
    interleaved = EAGER.rotary(x, angles.cos(), angles.sin(), True)
    assert torch.equal(interleaved, EAGER.rotary(halves, angles.cos(), angles.sin(), False))
    as_complex = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(interleaved, torch.cat([as_complex.real, as_complex.imag], -1))


def test_rms_norm_and_its_residual_sum() -> None:
    x, residual, weight = _randn(3, 7), _randn(3, 7, seed=1), _randn(7, seed=2)
    total = x + residual
    expected = total / (total.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt() * weight
    normed, summed = EAGER.add_rms_norm(x, residual, weight, 1e-3)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(EAGER.rms_norm(total, weight, 1e-3), expected)
    assert torch.equal(summed, total)
    half = EAGER.rms_norm(total.bfloat16(), weight.float(), 1e-3)
    assert half.dtype == torch.bfloat16
    exact = EAGER.rms_norm(total.bfloat16().double(), weight, 1e-3)
    torch.testing.assert_close(half.double(), exact, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("tokens", [1, 9])
def test_grouped_experts(tokens: int) -> None:
    x, gate_up, down = _randn(tokens, 6), _randn(5, 8, 6, seed=1), _randn(5, 6, 4, seed=2)
    experts = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(t))[:2] for t in range(tokens)])
    weights = _randn(tokens, 2, seed=3)
    expected = torch.zeros(tokens, 6, dtype=torch.float64)
    for t in range(tokens):
        for expert, weight in zip(experts[t].tolist(), weights[t], strict=True):
            gate, up = (gate_up[expert] @ x[t]).chunk(2)
            expected[t] += weight * (down[expert] @ (gate * gate.sigmoid() * up))
    torch.testing.assert_close(EAGER.grouped_experts(x, experts, weights, gate_up, down), expected)


def test_inputs_are_not_modified() -> None:
    span = Span.fresh(1, 6)
    q, rows = _randn(1, 6, 3, 6), _randn(1, 6, 6, seed=1)
    kept = q.clone(), rows.clone()
    EAGER.mqa_attention(q, rows, span, 0.3, 4)
    EAGER.mha_attention(q, rows[:, None].expand(-1, 3, -1, -1), rows[:, None].expand(-1, 3, -1, -1), span, 0.3, None)
    EAGER.index_scores(q, q[..., 0], rows, span)
    assert torch.equal(q, kept[0])
    assert torch.equal(rows, kept[1])


# --- spans ----------------------------------------------------------------------------------------------


def test_chunks_of_a_span_see_what_the_whole_sees() -> None:
    for span in SPANS.values():
        whole = span.visible("cpu")
        for columns, part in span.chunks(2):
            mask = torch.zeros(span.batch, part.width, span.end, dtype=torch.bool)
            mask[..., : part.end] = part.visible("cpu")
            real = _real(span)[:, columns]
            assert torch.equal(mask[real], whole[:, columns][real])
