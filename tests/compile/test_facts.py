"""What is read from PTX, machine code and cuobjdump, and what is not taken for it."""

from __future__ import annotations

import pytest

from harness.compile import facts
from harness.compile.cache import Cache, key_of
from harness.compile.facts import BuildFacts
from harness.compile.target import TARGETS, target_of
from harness.errors import UsageError

SASS = """
        /*0000*/                   LDC R1, c[0x0][0x37c] ;            /* 0x0000df00ff017b82 */
        /*0010*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;   /* 0x01e0 */
        /*0020*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;   /* 0x01e0 */
        /*0030*/                   STL [R1+0x8], R12 ;                 /* 0x0000 */
        /*0040*/                   LDL.64 R4, [R1+0x8] ;               /* 0x0000 */
"""
PTX = ".version 8.7\n.target sm_90a\n  wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%r1};"


def test_instructions_count_where_both_texts_have_them() -> None:
    assert facts.matrix_instructions(PTX, SASS) == {"wgmma": 2}
    assert facts.matrix_instructions("// wgmma is not here", SASS) == {}
    assert facts.matrix_instructions(PTX, "no machine code") == {}


@pytest.mark.parametrize(
    ("kind", "ptx", "machine"),
    [
        ("mma", "mma.sync.aligned.m16n8k16", "HMMA.16816.F32.BF16 R4, R5"),
        ("mma", "wmma.sync", "IMMA.16832.S8 R4"),
        ("wgmma", "wgmma.mma_async.sync.aligned", "QGMMA.64x128x32.F32.E4M3.E4M3"),
        ("tcgen05", "tcgen05.mma.cta_group::1.kind::f16", "UTCHMMA gdesc[UR4]"),
        ("tcgen05", "tcgen05.mma.cta_group::1.kind::f8f6f4", "UTCQMMA gdesc[UR4]"),
    ],
)
def test_every_generation_is_told_apart(kind: str, ptx: str, machine: str) -> None:
    assert facts.matrix_instructions(ptx, machine) == {kind: 1}


def test_spills_and_sizes_are_read() -> None:
    text = " Function mm:\n  REG:191 STACK:40 SHARED:1024 LOCAL:8 CONSTANT[0]:584 TEXTURE:0"
    assert facts.usage(text) == {"REG": 191, "STACK": 40, "LOCAL": 8}
    assert facts.local_accesses(SASS) == 2
    assert facts.operations(SASS) == 5
    assert facts.ptx_version(PTX) == "8.7"
    with pytest.raises(ValueError, match="no register count"):
        facts.usage("cuobjdump fatal: no such file")


def test_targets_know_their_limits() -> None:
    limits = {name: target.shared_memory for name, target in TARGETS.items()}
    assert limits == {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448}
    assert [target.instructions for target in TARGETS.values()] == ["mma", "wgmma", "tcgen05"]
    with pytest.raises(UsageError, match=r"sm_91.*sm_90"):
        target_of("sm_91")


def test_a_build_fits_up_to_its_limit() -> None:
    assert BuildFacts("b", "op", "sm_90", shared_memory=10, shared_limit=10).fits
    assert not BuildFacts("b", "op", "sm_90", shared_memory=11, shared_limit=10).fits


def test_the_cache_forgets_nothing_and_keeps_no_failure(tmp_path) -> None:  # type: ignore[no-untyped-def]
    cache, good = Cache(tmp_path), BuildFacts("b", "op", "sm_90", registers=7)
    key = key_of({"kernel": "x"})
    assert cache.get(key) is None
    cache.put(key, good)
    assert cache.get(key) == good
    assert Cache(tmp_path, fresh=True).get(key) is None
    other = key_of({"kernel": "y"})
    cache.put(other, BuildFacts("b", "op", "sm_90", failure="no"))
    assert cache.get(other) is None
    next(tmp_path.rglob("*.json")).write_text("{broken")
    assert cache.get(key) is None
