"""Every format over real stored runs: golden tables, planted numbers checked by hand values."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.contract import Column
from harness.errors import UsageError
from harness.records.paired import paired_difference
from harness.records.record import Metric, Status
from harness.records.store import RunFolder
from harness.report import FORMATS, render
from tests.report.planted import CHECKPOINT, DSA, HF, MHA, MQA, accuracy, example, record, run

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def stored(tmp_path: Path) -> RunFolder:
    return run(tmp_path, example())


def rows_of(store: RunFolder, **kwargs: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render([store], "csv", **kwargs))))


# --- whole reports --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["terminal", "markdown"])
def test_the_whole_text(stored: RunFolder, format: str) -> None:
    assert render([stored], format, 100) + "\n" == (GOLDEN / f"example.{format}").read_text()


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_asked(stored: RunFolder, width: int) -> None:
    assert max(map(len, render([stored], "terminal", width).splitlines())) <= width


def test_narrow_tables_are_split_and_repeat_their_labels(stored: RunFolder) -> None:
    wide, narrow = render([stored], "terminal", 100), render([stored], "terminal", 60)
    assert narrow.count("length  form") > wide.count("length  form")
    assert len(re.findall(r"x\d\S+", wide)) == 9
    assert sorted(re.findall(r"x\d\S+", wide)) == sorted(re.findall(r"x\d\S+", narrow))


def test_markdown_tables_have_as_many_cells_as_headers(stored: RunFolder) -> None:
    lines = render([stored], "markdown").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 8
    for line, after in pairwise(lines):
        if line.startswith("|") and after.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", after))


def test_markdown_escapes_what_would_end_a_cell(tmp_path: Path) -> None:
    wrong = record("prefill", MHA, status=Status.FAILED, reasons=["a | b\nand *c*"], length=512)
    assert r"failed: a \| b and \*c\*" in render([run(tmp_path, [wrong])], "markdown")


def test_brief_leaves_out_what_explains_the_answer(stored: RunFolder) -> None:
    whole, brief = render([stored], "terminal"), render([stored], "terminal", brief=True)
    assert "[memory]" in whole
    assert "[memory]" not in brief
    first = whole[: whole.index("\n\n[memory]")]
    assert "TTFT" in first
    assert brief.startswith(first)


def test_brief_is_no_way_to_lose_values(stored: RunFolder) -> None:
    with pytest.raises(UsageError, match="csv has every value"):
        render([stored], "csv", brief=True)


def test_one_table_of_several() -> None:
    store = RunFolder.open(Path(__file__).parents[2] / "results" / "cpu" / "peers")
    text = render([store], "terminal", names=["long-prompt"], brief=True)
    assert "long-prompt: " in text
    assert "v32-layer: " not in text
    with pytest.raises(UsageError, match="did you mean 'v32-layer'"):
        render([store], "terminal", names=["v32layer"])


def test_the_json_document_has_values_derived_from_samples(stored: RunFolder) -> None:
    document = json.loads(render([stored], "json"))
    assert set(document) == {"schema", "context", "suite", "records"}
    first = next(one for one in document["records"] if one["workload"]["kind"] == "prefill")
    assert first["metrics"]["ttft"]["value"] == 100
    assert first["metrics"]["ttft"]["samples"] == [90, 100, 110]
    assert first["variant"]["form"] == "mha"
    reasons = [metric for one in document["records"] for metric in one["metrics"].values() if metric.get("withheld")]
    assert all("value" not in metric for metric in reasons)
    assert len(document["records"]) == len(example())


def test_reports_import_no_torch(stored: RunFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from harness.records.store import RunFolder; "
        "from harness.report import FORMATS, render; store = RunFolder.open(Path(sys.argv[1])); "
        "[render([store], format) for format in FORMATS]; "
        "assert not {'torch', 'transformers', 'numpy', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(stored.path)], check=True, cwd=Path(__file__).parents[2])


def test_an_unknown_format_names_the_nearest(stored: RunFolder) -> None:
    with pytest.raises(UsageError, match="did you mean 'markdown'"):
        render([stored], "markdwon")


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_without_a_record_says_so(tmp_path: Path, format: str) -> None:
    store = RunFolder.create(tmp_path, "empty", {}, {})
    with pytest.raises(UsageError, match="no cell has ended yet"):
        render([store], format)


# --- numbers --------------------------------------------------------------------------------------


def test_csv_by_hand_values(stored: RunFolder) -> None:
    rows = {(one["kind"], one["form"], one["selector"], one["length"], one["metric"]): one for one in rows_of(stored)}
    base, mqa = rows["prefill", "mha", "dense", "512", "ttft"], rows["prefill", "mqa", "dense", "512", "ttft"]
    given = {name: float(base[name]) for name in ("value", "p50", "p90", "p99", "mean", "min", "max", "n", "spread")}
    expected = {"value": 100, "p50": 100, "p90": 108, "p99": 109.8, "mean": 100, "min": 90, "max": 110, "n": 3}
    assert given == pytest.approx(expected | {"spread": 0.05})
    assert float(mqa["ratio_to_baseline"]) == 1.5
    assert float(rows["accuracy", "mha", "dense", "512", "acc"]["standard_error"]) == pytest.approx((1 / 12) ** 0.5)


def test_csv_has_every_cell_and_no_number_where_none_may_be_given(stored: RunFolder) -> None:
    rows = rows_of(stored)
    assert {one["cell"] for one in rows} == {one.cell for one in example()}
    for one in rows:
        if one["status"] in ("unsupported", "timeout") or one["withheld"]:
            assert (one["value"], one["ratio_to_baseline"], one["n"], one["p50"]) == ("", "", "", "")
            assert one["reasons"] or one["withheld"]


def test_a_min_that_returns_the_maximum_is_caught(stored: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.records import statistics

    monkeypatch.setitem(statistics.STATISTICS, "min", max)
    with pytest.raises(AssertionError):
        test_csv_by_hand_values(stored)


def test_a_cell_that_did_not_pass_shows_no_number(tmp_path: Path) -> None:
    cells = [
        record("prefill", MHA, {"ttft": [100, 100]}, length=512),
        record("prefill", HF, {"ttft": [90, 90]}, length=512),
        *(
            record("prefill", variant, {"ttft": Metric("ms", [77, 77])}, status=status, reasons=["why"], length=512)
            for variant, status in ((MQA, Status.FAILED), (DSA, Status.INCORRECT))
        ),
    ]
    text = render([run(tmp_path, cells, [MHA, MQA, DSA, HF])], "terminal")
    assert "77" not in text
    assert re.findall(r"x\d\S+", text) == ["x1.00", "x0.90"]
    assert "90.0* x0.90" in text  # the best of those that passed


def test_without_a_baseline_value_there_is_no_ratio(tmp_path: Path) -> None:
    cells = [
        record("prefill", MHA, status=Status.OOM, reasons=["out of memory"], length=512),
        record("prefill", MQA, {"ttft": [100, 100]}, length=512),
    ]
    text = render([run(tmp_path, cells)], "terminal")
    assert "oom [1]" in text
    assert not re.search(r"x\d", text)


def test_units_fit_the_numbers(tmp_path: Path) -> None:
    cells = [
        record("prefill", MHA, {"ttft": [20_000, 20_000], "peak_memory": [3 * 2**30]}, length=512),
        record("decode", MHA, {"tpot": [0.02, 0.02], "cache_bytes_per_token": [2304]}, steps=4, length=512),
    ]
    text = render([run(tmp_path, cells)], "markdown")
    assert all(
        header in text for header in ("TTFT p50, s", "TPOT p50, µs", "peak memory, GiB", "cache/token, KiB/token")
    )
    assert all(number in text for number in ("20.0", "2.25", "3.00"))


def test_the_best_is_marked_with_all_that_noise_cannot_tell_from_it(tmp_path: Path) -> None:
    cells = [
        record("prefill", MHA, {"ttft": [100, 100]}, length=512),
        record("prefill", MQA, {"ttft": [51, 51]}, length=512),
        record("prefill", DSA, {"ttft": [45, 50, 55]}, length=512),
    ]
    text = render([run(tmp_path, cells)], "terminal")
    assert re.findall(r"[\d.]+\*", text) == ["51.0*", "50.0*"]


def test_higher_is_better_where_it_is(tmp_path: Path) -> None:
    cells = [
        record("generate", variant, {"output_rate": [rate, rate]}, new_tokens=8, length=512)
        for variant, rate in ((MHA, 10), (MQA, 40))
    ]
    text = render([run(tmp_path, cells)], "terminal")
    assert re.findall(r"[\d.]+\* +x\S+", text) == ["40.0* x4.00"]


# --- rows and columns -----------------------------------------------------------------------------


def test_only_axes_that_differ_are_columns(tmp_path: Path) -> None:
    cells = [record("prefill", variant, {"ttft": [1, 1]}, length=512) for variant in (MHA, HF)]
    text = render([run(tmp_path, cells, [MHA, HF])], "terminal")
    assert re.search(r"^engine +ms$", text, re.M)
    assert "form mha, selector dense" in text
    assert "kernels eager (native) or sdpa (hf)" in text  # follows from the engine
    assert "length 512" in text


def test_accuracy_stands_beside_latency_of_the_same_length(tmp_path: Path) -> None:
    cells = [record("prefill", MHA, {"ttft": [length, length]}, length=length, batch=2) for length in (256, 512)]
    cells += [record("accuracy", MHA, accuracy("acc", [1] * 9 + [0]), tasks="choice", length=512, batch=8)]
    lines = render([run(tmp_path, cells)], "terminal").splitlines()
    assert next(line for line in lines if line.startswith("512")).endswith("90.0 ±10")
    assert next(line for line in lines if line.startswith("256")).endswith("-")


def test_accuracy_differences_are_paired_over_the_same_documents(tmp_path: Path) -> None:
    base, worse, equal = [1] * 90 + [0] * 10, [1] * 70 + [0] * 30, [1] * 90 + [0] * 10
    cells = [record("accuracy", MHA, accuracy("exact_match", base), tasks="needle", length=512)]
    cells += [record("accuracy", MQA, accuracy("exact_match", worse), tasks="needle", length=512)]
    cells += [record("accuracy", DSA, accuracy("exact_match", equal), tasks="needle", length=512)]
    store = run(tmp_path, cells)
    rows = {row["selector"]: row for row in rows_of(store) if row["form"] == "mqa"}
    expected = paired_difference([0.0] * 70 + [-1.0] * 20 + [0.0] * 10, [1, 1, *range(2, 100)], right_or_wrong=True)
    found = [float(rows["dense"][name]) for name in ("paired_difference", "paired_low", "paired_high")]
    assert found == pytest.approx([expected.estimate, expected.low, expected.high])
    assert (rows["dense"]["lost"], rows["dense"]["gained"]) == ("20", "0")
    assert (rows["dsa"]["lost"], rows["dsa"]["gained"], rows["dsa"]["paired_difference"]) == ("0", "0", "0.0")
    text = render([store], "terminal")
    assert re.search(r"70\.0 +±4\.6 -20\.0 +\[-28\.\d, -13\.\d\]", text)
    assert re.search(r"90\.0\*? +±3\.0 +\+0\.0 +\[-3\.\d, \+3\.\d\]", text)
    assert "needle_512 100 in 99 texts" in text


def test_other_scores_have_a_paired_interval_in_their_own_unit(tmp_path: Path) -> None:
    base = [1.5 + number % 7 / 10 for number in range(64)]
    worse = [value + 0.02 + 0.001 * (-1) ** number for number, value in enumerate(base)]
    cells = [
        record("accuracy", variant, accuracy("bits_per_byte", values, better="lower"), tasks="bits_per_byte")
        for variant, values in ((MHA, base), (MQA, worse))
    ]
    text = render([run(tmp_path, cells)], "terminal")
    assert re.search(r"1\.\d+\* ±0\.\d+\n", text), "the baseline is the best, and has no difference from itself"
    assert re.search(r"1\.\d+  ±0\.\d+ \+0\.020 \[\+0\.020, \+0\.020\]", text), "outside its paired interval: no tie"


def test_unlike_documents_have_no_paired_interval(tmp_path: Path) -> None:
    cells = [record("accuracy", MHA, accuracy("acc", [1, 0, 1, 1]), tasks="choice", length=512)]
    cells += [record("accuracy", MQA, accuracy("acc", [1, 0, 1]), tasks="choice", length=512)]
    store = run(tmp_path, cells)
    assert [row["paired_difference"] for row in rows_of(store)] == ["", ""]
    assert "-8.3" in render([store], "terminal")
    assert "[" not in render([store], "terminal")


def test_lengths_beyond_training_are_marked(stored: RunFolder) -> None:
    marks = {(row["length"], row["selector"]): row["extrapolates"] for row in rows_of(stored) if row["tasks"]}
    assert marks["2048", "dsa"] == "True"
    assert marks["512", "dense"] == ""
    for format in ("terminal", "markdown"):
        assert "[5] extrapolation: the model was trained at no more than 1,024 tokens" in render([stored], format)


def test_accuracy_alone_makes_a_table(tmp_path: Path) -> None:
    cells = [record("accuracy", MHA, accuracy("bits_per_byte", [1.5, 2.5], better="lower"), tasks="bits_per_byte")]
    text = render([run(tmp_path, cells)], "terminal")
    assert "2.00 ±0.50" in text
    assert re.search(r"^ +bits_per_byte\n +n=2\nform +selector +bits/byte\n", text, re.M)


def test_workloads_of_a_kind_that_differ_otherwise_get_columns_of_their_own(tmp_path: Path) -> None:
    cells = [
        record("prefill", MHA, {"ttft": [value, value]}, length=512, chunk=chunk)
        for chunk, value in ((128, 3), (256, 2))
    ]
    text = render([run(tmp_path, cells)], "markdown")
    assert "TTFT p50, chunk 128, ms" in text
    assert "TTFT p50, chunk 256, ms" in text


def test_a_size_that_is_the_same_everywhere_is_said_once(tmp_path: Path) -> None:
    cells = [
        record("prefill", variant, {"ttft": [1, 1], "weight_bytes": [2**21]}, length=512) for variant in (MHA, MQA)
    ]
    text = render([run(tmp_path, cells)], "terminal")
    assert "weights 2.00 MiB" in text
    assert "[memory]" not in text


def test_an_interrupted_run_says_how_much_is_missing(tmp_path: Path) -> None:
    cells = [record("prefill", MHA, {"ttft": [1, 1]}, length=512)]
    assert "3 of 4 cells have no record" in render([run(tmp_path, cells, cells=4)], "terminal")


def test_a_busy_machine_is_mentioned(tmp_path: Path) -> None:
    for load, said in ((1.2, False), (3.1, True)):
        cells = [record("prefill", MHA, {"ttft": [1, 2]}, length=512, context={"load_after": [load, 1, 1]})]
        text = render([run(tmp_path, cells, name=f"load{said}")], "terminal")
        assert ("load average up to 3.1" in text) is said


# --- several runs ---------------------------------------------------------------------------------


def test_records_of_a_former_run_are_counted(tmp_path: Path) -> None:
    carried = {"carried_over": "quick-20260101T000000Z"}
    records = [record("prefill", MHA, {"ttft": [1.0]}, length=8), record("prefill", MQA, {"ttft": [1.0]}, length=8)]
    assert "measured before" not in render([run(tmp_path / "a", records)], "terminal")
    records.append(record("prefill", DSA, {"ttft": [1.0]}, length=8, context=carried))
    text = " ".join(render([run(tmp_path / "b", records)], "terminal").split())
    assert "1 cell was measured before, in quick-20260101T000000Z, not in turn with the others" in text


def test_later_records_replace_earlier_ones_of_the_same_cell(tmp_path: Path) -> None:
    old = run(
        tmp_path, [record("prefill", MHA, {"ttft": [111]}, length=512)], name="old", started="2026-01-01T00:00:00"
    )
    new = run(
        tmp_path, [record("prefill", MHA, {"ttft": [222]}, length=512)], name="old", started="2026-02-01T00:00:00"
    )
    text = render([new, old], "terminal")
    assert "222" in text
    assert "111" not in text


def test_unlike_weights_and_machines_are_never_mixed(tmp_path: Path) -> None:
    other = {**CHECKPOINT, "sha256": "cd" * 32}
    one = run(tmp_path, [record("prefill", MHA, {"ttft": [100]}, length=512)], started="2026-01-01T00:00:00")
    two = run(
        tmp_path,
        [
            record("prefill", variant, {"ttft": [ms]}, length=512, checkpoint=other)
            for variant, ms in ((MHA, 50), (MQA, 25))
        ],
        started="2026-02-01T00:00:00",
    )
    text = render([one, two], "terminal")
    assert re.findall(r"^([AB]) .*x(\S+)", text, re.M) == [("A", "1.00"), ("B", "1.00"), ("B", "0.50")]
    assert "run B: Planted CPU" in text


def test_unlike_texts_are_never_mixed_but_text_and_random_prompts_of_one_run_are(tmp_path: Path) -> None:
    def one(text: str, started: str) -> RunFolder:
        cells = [
            record("accuracy", MHA, accuracy("acc", [1, 0]), tasks="choice", length=512, context={"text_sha256": text}),
            record("prefill", MHA, {"ttft": [100]}, length=512),
        ]
        return run(tmp_path, cells, started=started)

    runs = [one("aa" * 32, "2026-01-01T00:00:00"), one("bb" * 32, "2026-02-01T00:00:00")]
    assert not re.search(r"^run", render(runs[:1], "terminal"), re.M)
    text = render(runs, "terminal", 200)
    assert re.search(r"^run B: .*text sha256 bbbbbbbbbbbb", text, re.M)
    assert len(re.findall(r"^[AB] .*x1.00", text, re.M)) == 2


def test_json_refuses_runs_of_unlike_suites(tmp_path: Path) -> None:
    runs = [run(tmp_path, example(), name=name) for name in ("one", "two")]
    with pytest.raises(UsageError, match="these are of one, two"):
        render(runs, "json")
    assert render(runs, "terminal").count("Which is fastest?") == 2


# --- plugins' columns -----------------------------------------------------------------------------


def test_columns_of_plugins_are_appended(stored: RunFolder) -> None:
    column = Column("joules", lambda one: 2.5 if one["workload"]["kind"] == "decode" else None)
    assert "joules" in render([stored], "terminal", columns=[column])
    rows = rows_of(stored, columns=[column])
    assert {one["joules"] for one in rows if one["kind"] == "decode"} == {"2.5"}
    assert {one["joules"] for one in rows if one["kind"] != "decode"} == {""}


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv"])
def test_a_column_that_fails_is_a_clear_error(stored: RunFolder, format: str) -> None:
    with pytest.raises(UsageError, match="report column 'joules': fails on t:"):
        render([stored], format, columns=[Column("joules", lambda one: one["no such key"])])
