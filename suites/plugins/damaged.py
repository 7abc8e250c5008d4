"""Ways to run a model that are wrong on purpose: accuracy columns mean something only if these lose.

Each is a fault that such code has had or easily has, made through the public seams alone; everything else about a
variant stays as it is. `suites/damage.yaml` shows them beside the sound ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.contract import Option, Query, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from harness.contract.attention import Selector, SelectorSource
    from harness.contract.cache import CacheFormat
    from harness.contract.operators import Operators
    from harness.contract.span import Span

FEW_KEYS = 16
PAGE = 64
"""Tokens of a page of the cache, and of a block of the mask."""
PAGES = 4
"""One page in so many is lost."""


@hookimpl
def harness_options() -> list[Option]:
    """Three selectors, a cache and a kernel set; all for engine native."""
    selectors: list[tuple[str, Callable[[SelectorSource], SelectorSource], str]] = [
        ("dsa-lowest", lowest_scored, "DSA that takes the keys with the lowest scores"),
        ("dsa-topk-16", few_keys, f"DSA with an index_topk of {FEW_KEYS}"),
        (
            "dsa-wrong-rotation",
            wrong_rotation,
            "DSA whose indexer rotates in the other layout",
        ),
    ]
    lost, masked = f"loses one page of {PAGE} tokens in {PAGES}", f"causal mask off by one block of {PAGE}"
    return [
        *(Option("selector", name, partial(dsa, name, damage), text, _needs_dsa) for name, damage, text in selectors),
        Option("cache", "latent-lost-pages", lost_pages, f"as latent, but {lost}", _needs_native),
        Option("kernels", "eager-wrong-mask", wrong_mask, f"as eager, with the {masked}", _needs_native),
    ]


def _needs_native(query: Query) -> list[str]:
    return [] if query.variant.engine == "native" else [f"damage is for engine native, not for {query.variant.engine}"]


def _needs_dsa(query: Query) -> list[str]:
    return [*_needs_native(query), *([] if query.config.has_indexer else ["there is no indexer to damage"])]


# --- selectors: DSA, given another source -------------------------------------------------------------


def dsa(name: str, damage: Callable[[SelectorSource], SelectorSource]) -> Selector:
    """The built-in selector, told something else about the tokens, the config or the operators."""
    from harness.contract.attention import Selector
    from harness.contract.registry import Registry

    sound: Selector = Registry(entry_points=False).option("selector", "dsa").load()

    class Damaged(Selector):
        def cache_fields(self, config: Any) -> Any:
            return sound.cache_fields(config)

        def new_fields(self, source: SelectorSource) -> Any:
            return sound.new_fields(damage(source))

        def keys_per_query(self, config: Any) -> int | None:
            return sound.keys_per_query(config)

        def select(self, source: SelectorSource, keys: Any) -> Tensor | None:
            return sound.select(damage(source), keys)

    Damaged.name = name
    return Damaged()


def lowest_scored(source: SelectorSource) -> SelectorSource:
    """Scores with their sign turned; what a query does not see stays unseen."""

    def index_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
        scores_BTS = source.ops.index_scores(q_BTGI, weights_BTG, k_BSI, span)
        return scores_BTS.neg().masked_fill(scores_BTS.isneginf(), float("-inf"))

    return replace(source, ops=replace(source.ops, index_scores=index_scores))


def few_keys(source: SelectorSource) -> SelectorSource:
    """A config with a smaller index_topk."""
    from msgspec.structs import replace as with_fields

    return replace(source, config=with_fields(source.config, index_topk=min(FEW_KEYS, source.config.index_topk)))


def wrong_rotation(source: SelectorSource) -> SelectorSource:
    """Pairs of neighbours where halves belong together, or the other way round: V3.2's first demo had this fault."""

    def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        return source.ops.rotary(x, cos, sin, not interleaved)

    return replace(source, ops=replace(source.ops, rotary=rotary))


# --- cache --------------------------------------------------------------------------------------------


def lost_pages() -> CacheFormat:
    """Latent rows of which the second of every four pages stays empty, in every layer, index keys included."""
    from harness.contract.cache import CacheField, CacheFormat, LayerCache

    class Layer(LayerCache):
        def write(self, new: Any, span: Span) -> None:
            for name, values in {"row": new.rows_BTL, **new.fields}.items():
                self.put(name, values, span)
                for first in range(PAGE, self.storage[name].shape[1], PAGE * PAGES):
                    self.storage[name][:, first : first + PAGE] = 0

        def latent_rows(self, end: int) -> Tensor:
            return self.view("row", end)

        def expanded(self, end: int) -> None:
            return

        def field(self, name: str, end: int) -> Tensor:
            return self.view(name, end)

    class LostPages(CacheFormat):
        name = "latent-lost-pages"

        def stored(self, config: Any, dtype: Any, added: Any) -> list[CacheField]:
            widths = {"row": config.kv_lora_rank + config.qk_rope_head_dim, **added}
            return [CacheField(name, width, dtype) for name, width in widths.items()]

        def new_layer(self, stored: Any, batch: int, max_len: int, device: str, ops: Operators) -> LayerCache:
            return Layer(stored, batch, max_len, device)

    return LostPages()


# --- kernels ------------------------------------------------------------------------------------------


def wrong_mask() -> Operators:
    """A query sees whole blocks before its own, and itself: "before" where the mask should say "up to"."""
    from harness.contract.operators import reference_operators

    sound = reference_operators()

    def index_scores(q_BTGI: Tensor, weights_BTG: Tensor, k_BSI: Tensor, span: Span) -> Tensor:
        return sound.index_scores(q_BTGI, weights_BTG, k_BSI, span).masked_fill(~seen(span, k_BSI), float("-inf"))

    def mha_attention(
        q_BTHQ: Tensor, k_BHSQ: Tensor, v_BHSV: Tensor, span: Span, scale: float, selected_BTK: Tensor | None
    ) -> Tensor:
        chosen_BTK = listed(seen(span, q_BTHQ)) if selected_BTK is None else selected_BTK
        return sound.mha_attention(q_BTHQ, k_BHSQ, v_BHSV, span, scale, chosen_BTK)

    def mqa_attention(q_BTHL: Tensor, rows_BSL: Tensor, span: Span, scale: float, value_width: int) -> Tensor:
        return sound.mqa_sparse_attention(q_BTHL, rows_BSL, listed(seen(span, q_BTHL)), scale, value_width)

    def seen(span: Span, like: Tensor) -> Tensor:
        """bool [B, T, S]; a query in a padded column stands at the last key."""
        visible_BTS = span.visible(like.device)
        own_BTS = visible_BTS & ~visible_BTS.roll(-1, -1)  # the last visible key of every query
        own_BTS[..., -1] = visible_BTS[..., -1]
        last_BT1 = own_BTS.int().argmax(-1, keepdim=True)
        block_S = own_BTS.new_ones(span.end).cumsum(0) - 1
        return own_BTS | (block_S < last_BT1 // PAGE * PAGE)

    def listed(seen_BTS: Tensor) -> Tensor:
        """Positions [B, T, S] of what is seen, then -1."""
        scores_BTS = seen_BTS.float().masked_fill(~seen_BTS, float("-inf"))
        return sound.select_topk(scores_BTS, seen_BTS.shape[-1])

    return replace(
        sound,
        name="eager-wrong-mask",
        index_scores=index_scores,
        mha_attention=mha_attention,
        mqa_attention=mqa_attention,
    )
