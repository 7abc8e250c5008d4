"""Samples go back to the blocks and processes that they were taken in."""

from __future__ import annotations

from harness.records.blocks import samples_by_block, samples_by_process
from harness.records.metrics import metric, withheld
from harness.records.record import Block, Metric, Record, Status
from harness.suite.variant import Variant

VARIANT = Variant("native", "mqa", "dsa", "fp32", "latent", "eager", "plain")


def record(blocks: list[Block], **metrics: Metric) -> Record:
    return Record("c", "t", VARIANT, {"kind": "decode"}, Status.PASSED, metrics=metrics, blocks=blocks)


def block(process: int, counts: dict[str, int], **more: object) -> Block:
    return Block(process, 0, 0, 1.0, counts, **more)  # type: ignore[arg-type]


def test_each_block_gets_as_many_as_it_took() -> None:
    blocks = [block(0, {"tpot": 2, "ttft": 1}), block(1, {"tpot": 3, "ttft": 1})]
    stored = record(blocks, tpot=metric("tpot", [1, 2, 3, 4, 5]), ttft=metric("ttft", [10, 20]))
    assert [samples for _, samples in samples_by_block(stored)] == [
        {"tpot": [1, 2], "ttft": [10]},
        {"tpot": [3, 4, 5], "ttft": [20]},
    ]
    assert samples_by_process(stored, "tpot") == [[1, 2], [3, 4, 5]]


def test_dropped_blocks_keep_their_own_and_take_no_others() -> None:
    blocks = [
        block(0, {"tpot": 1}),
        block(0, {"tpot": 1}, dropped=True, samples={"tpot": [99.0]}),
        block(0, {"tpot": 1}),
    ]
    stored = record(blocks, tpot=metric("tpot", [1, 2]))
    assert [samples["tpot"] for _, samples in samples_by_block(stored)] == [[1], [99], [2]]
    assert samples_by_process(stored, "tpot") == [[1, 2]]


def test_what_is_withheld_or_was_not_measured_in_blocks_is_left_out() -> None:
    stored = record([block(0, {"tpot": 1})], tpot=withheld("tpot", "emulated"), cache_bytes=metric("cache_bytes", [64]))
    assert samples_by_block(stored)[0][1] == {}
    assert samples_by_process(stored, "cache_bytes") == [[64.0]]
