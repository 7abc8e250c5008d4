"""Every format says the same, holds whatever a reason may contain, and keeps to its reader's limits."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import msgspec
import pytest

from harness.cli import gating
from harness.errors import UsageError
from harness.gate.output import FORMATS, markdown, render
from harness.gate.output.document import GateDocument
from harness.gate.output.labels import CellNames
from harness.gate.verdict import Control, Evidence, Finding, GateReport, Interval, Side, Ungated, Verdict

MHA = "t:prefill[batch=1,length=512]:native/mha/dense/fp32/latent/eager/plain"
MQA = MHA.replace("mha", "mqa")
NASTY = "50%, a|b <i> @me: \x1b[31mred\x00\nnext\rline"

SLOWER = Finding(
    MHA, "ttft", "tolerate 1%, catch 5%", Verdict.REGRESSION, "ms", base=20.0, new=21.2, scale="ratio", estimate=1.06,
    interval=Interval(1.04, 1.08, 0.95), evidence=Evidence(14, "pairs", 3, "processes", 0.02), seconds=1.5, timed=True,
    reasons=[NASTY],
)  # fmt: skip
FINDINGS = [
    Finding(MQA, "ttft", "tolerate 1%, catch 5%", Verdict.PASS, "ms", base=20.0, new=20.0, scale="ratio", estimate=1.0),
    SLOWER,
    Finding(MQA, "acc", "catch 2 points", Verdict.INCONCLUSIVE, "fraction", "higher", 0.75, 0.74, "difference", -0.01,
            Interval(-0.03, 0.01, 0.9), Evidence(200, "documents", detectable=0.035)),
    Finding(MQA, "cache_bytes", "exact", Verdict.IMPROVEMENT, "bytes", base=2048.0, new=1024.0, scale="difference",
            estimate=-1024.0),
    Finding(MHA, "kl", "at most 0.1 nats", Verdict.REGRESSION, "nats", base=0.05, new=0.2, estimate=0.2,
            waiver="until then"),
    Finding(MQA, "tpot", "tolerate 1%, catch 5%", Verdict.BROKEN, reasons=["missing"]),
    Finding(MHA, "tpot", "tolerate 1%, catch 5%", Verdict.INCOMPARABLE, reasons=["threads 1 -> 2"],
            interval=Interval(float("-inf"), float("inf"), 0.9), scale="ratio", estimate=1.0),
]  # fmt: skip


def report(*findings: Finding, **more: object) -> GateReport:
    sides = (
        Side("base run", "a" * 40, True, "2027-01-01T00:00:00+00:00", {"cpu_model": "Planted CPU"}),
        Side("new run"),
    )
    return GateReport("planted", *sides, "runs", list(findings or FINDINGS), **more)  # type: ignore[arg-type]


WHOLE = report(
    controls=[Control("A/A", Verdict.PASS, msgspec.structs.replace(SLOWER, cell="A/A"))],
    ungated=[Ungated(MHA, "new: the base does not have it"), Ungated(MQA, "new: the base does not have it", "ttft")],
    problems=["a rule matched nothing"],
    notes=["torch 1 -> 2"],
)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("whole", [WHOLE, report(FINDINGS[0]), GateReport("s", Side("a"), Side("b"), "ref")])
def test_every_format_shows_every_report(format: str, whole: GateReport) -> None:
    text = render(whole, format)
    assert "\x00" not in text
    assert "\x1b" not in text or format == "json"
    assert format == "github" or whole.outcome in text.lower()


def test_formats_of_the_command_line_are_those_that_exist() -> None:
    assert gating.FORMATS == FORMATS
    with pytest.raises(UsageError, match="did you mean 'junit'"):
        render(WHOLE, "junits")


# --- terminal -----------------------------------------------------------------------------------------


def test_a_terminal_shows_the_worst_first_and_counts_what_passes() -> None:
    text = render(WHOLE, "terminal")
    assert text.startswith("BROKEN (exit 2): planted: 1 broken, 2 regression, 1 incomparable, 1 inconclusive, "
                           "1 improvement, 1 pass")  # fmt: skip
    words = re.findall(r"^(broken|regression(?: \(waived\))?|incomparable|inconclusive|improvement|pass) ", text, re.M)
    assert words == ["broken", "regression", "regression (waived)", "incomparable", "inconclusive", "improvement"]
    assert "1 findings that pass are not listed" in text
    assert re.search(r"^pass ", render(WHOLE, "terminal", everything=True), re.M)


def test_a_row_says_what_a_reader_asks() -> None:
    (line,) = (line for line in render(report(SLOWER), "terminal").splitlines() if line.startswith("regression"))
    for part in ("20.0 ms", "21.2 ms", "+6% [+4, +8]", "tolerate 1%, catch 5%", "14 pairs, 3 processes", "2.0%", "[1]"):
        assert part in line, part


def test_shares_change_by_points_and_unbounded_intervals_are_left_out() -> None:
    text = render(report(FINDINGS[2], FINDINGS[6]), "terminal")
    assert "-1 points [-3, +1]" in text
    assert "3.5 points" in text
    assert "inf" not in text


def test_controls_problems_and_what_was_not_gated_are_told() -> None:
    text = render(WHOLE, "terminal")
    assert "problem: a rule matched nothing" in text
    assert "control A/A: regression, not pass: times measured now cannot be believed" in text
    assert "not gated (new: the base does not have it): prefill length=512 mha, prefill length=512 mqa ttft" in text
    assert "note: torch 1 -> 2" in text


def test_names_are_as_short_as_the_report_allows() -> None:
    other = "u:prefill[batch=4,length=512]:native/mha/dense/fp32/latent/eager/plain"
    assert CellNames([MHA, MQA]).short(MHA) == "prefill length=512 mha"
    assert CellNames([MHA]).short(MHA) == "prefill length=512"
    assert CellNames([MHA, other]).short(other) == "u:prefill length=512"
    assert CellNames([MHA, MHA.replace("batch=1", "batch=2")]).short(MHA) == "prefill batch=1 length=512"
    assert CellNames(["A/A control"]).short("A/A control") == "A/A control:"


# --- markdown -----------------------------------------------------------------------------------------


def test_markdown_holds_whatever_a_reason_says() -> None:
    text = render(WHOLE, "markdown")
    assert "a\\|b &lt;i&gt; &#64;me" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in tables}) == 1
    assert "<details><summary>1 findings pass</summary>" in text


def test_markdown_fits_into_a_comment_and_says_what_it_left_out() -> None:
    many = [msgspec.structs.replace(SLOWER, cell=MHA.replace("512", str(number)), reasons=[f"reason {number} " * 9])
            for number in range(2_000)]  # fmt: skip
    text = render(report(*many, *[FINDINGS[0]] * 2_000), "markdown")
    assert len(text) <= markdown.LIMIT + 1
    assert len(text.encode()) < 65_536
    shown = len(re.findall(r"^\| regression ", text, re.M))
    assert f"{2_000 - shown} more rows do not fit here" in text


# --- JUnit --------------------------------------------------------------------------------------------


def test_junit_has_a_case_for_everything_and_its_kind() -> None:
    root = ET.fromstring(render(WHOLE, "junit").encode())
    kinds = {case.get("name"): next((child.tag for child in case if child.tag != "properties"), "ok")
             for case in root.iter("testcase")}  # fmt: skip
    rest = MHA.partition(":")[2]
    assert kinds == {
        f"{rest.replace('mha', 'mqa')} ttft": "ok",
        f"{rest} ttft": "skipped",  # a regression by the clock of an unfit machine
        f"{rest.replace('mha', 'mqa')} acc": "skipped",
        f"{rest.replace('mha', 'mqa')} cache_bytes": "ok",
        f"{rest} kl limit": "skipped",
        f"{rest.replace('mha', 'mqa')} tpot": "error",
        f"{rest} tpot": "skipped",
        "A/A": "skipped",
        "a rule matched nothing": "error",
        "outcome": "error",
    }
    assert [root.get(key) for key in ("tests", "errors", "skipped", "failures")] == ["10", "3", "5", "0"]


def test_a_regression_fails_its_case_with_the_figures() -> None:
    case, _ = ET.fromstring(render(report(SLOWER), "junit").encode()).iter("testcase")
    failure = case.find("failure")
    assert failure is not None
    assert "20.0 ms -> 21.2 ms +6% [+4, +8]" in str(failure.get("message"))
    assert failure.text is not None
    assert "�" in failure.text
    properties = {one.get("name"): one.get("value") for one in case.iter("property")}
    assert properties["ratio"] == "1.06"
    assert properties["evidence"] == "14 pairs, 3 processes"


@pytest.mark.parametrize(("policy", "kind"), [(None, "skipped"), ("pass", "skipped"), ("fail", "failure")])
def test_open_questions_follow_the_policy(policy: str | None, kind: str) -> None:
    cases = list(ET.fromstring(render(report(FINDINGS[2], inconclusive=policy), "junit").encode()).iter("testcase"))
    assert [case.find(kind) is not None for case in cases] == [True, True]


# --- GitHub -------------------------------------------------------------------------------------------


def test_annotations_are_escaped_lines() -> None:
    lines = render(report(SLOWER), "github").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(
        "::error title=regression%3A ttft::prefill length=512: 20.0 ms -> 21.2 ms +6%25 [+4, +8]"
    )
    assert "%0Anext%0Aline" in lines[0]


def test_ten_of_a_kind_are_shown_the_worst_first_and_the_rest_is_counted() -> None:
    losses = [msgspec.structs.replace(SLOWER, estimate=1 + number / 100) for number in range(1, 31)]
    lines = render(report(*losses), "github").splitlines()
    assert len(lines) == 10
    assert "+30%25" in lines[0]
    assert lines[-1] == "::error title=more errors::21 more; the report lists all of them"


def test_kinds_of_annotation() -> None:
    lines = render(WHOLE, "github").splitlines()
    kinds = {line.split(" ")[0] for line in lines}
    assert kinds == {"::error", "::warning", "::notice"}
    assert any(line.startswith("::notice title=regression (waived)%3A kl") for line in lines)
    assert any("title=control::control A/A: regression, not pass" in line for line in lines)


# --- JSON ---------------------------------------------------------------------------------------------


def test_the_json_document_reads_back() -> None:
    document = msgspec.json.decode(render(WHOLE, "json"), type=GateDocument)
    assert (document.outcome, document.exit_code) == ("broken", 2)
    assert document.report.exit_code == 2
    unbounded = document.report.findings[6].interval
    assert unbounded is not None
    assert (unbounded.low, unbounded.high) == (None, None)
    assert document.report.findings[:6] == WHOLE.findings[:6]
