"""Every metric's name, unit and meaning: the one table that measurements, reports and gates go by.

`results/README.md` holds the same table in prose; a test keeps them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.records.record import Metric


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is. `unit` is what its samples are stored in."""

    name: str
    unit: str
    better: str
    """`lower`, `higher` or `neither`."""
    statistic: str
    """How one value is made of the samples; a key of `harness.records.statistics.STATISTICS`."""
    header: str
    """Column header in reports."""
    meaning: str


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec("ttft", "ms", "lower", "median", "TTFT",
                   "Time to first token: one whole prompt batch through prefill, until the logits of its last token. "
                   "One sample a repetition."),
        MetricSpec("tpot", "ms", "lower", "median", "TPOT",
                   "Time per output token. decode: one sample a step, all sequences of the batch advance together. "
                   "generate: one sample a repetition, the time after the first token over the tokens after it."),
        MetricSpec("prompt_rate", "tokens/s", "higher", "median", "prompt",
                   "Prompt tokens of all sequences per second of TTFT."),
        MetricSpec("output_rate", "tokens/s", "higher", "median", "output",
                   "Output tokens of all sequences per second. decode: per second of TPOT; generate: per second from "
                   "the request to the last token, prompt included."),
        MetricSpec("output_rate_per_device", "tokens/s/device", "higher", "median", "output/device",
                   "output_rate over the number of devices that the runner uses."),
        MetricSpec("cache_bytes", "bytes", "lower", "max", "cache",
                   "Bytes allocated for the caches of all layers of the cell's batch and length."),
        MetricSpec("cache_bytes_per_token", "bytes/token", "lower", "max", "cache/token",
                   "Bytes that one token of one sequence occupies in the caches, all layers. Exact."),
        MetricSpec("peak_memory", "bytes", "lower", "max", "peak memory",
                   "Highest memory while the timed calls ran, weights included: resident bytes of the process (CPU), "
                   "bytes handed out by the allocator (CUDA). One sample a repetition."),
        MetricSpec("peak_memory_growth", "bytes", "lower", "max", "peak growth",
                   "peak_memory less what was resident before the cell allocated its caches."),
        MetricSpec("weight_bytes", "bytes", "lower", "max", "weights",
                   "Bytes of all parameters as the runner keeps them."),
        MetricSpec("rel_l2_vs_reference", "", "lower", "max", "rel. L2 vs ref.",
                   "Error of the timed call's answer on inputs that it had not seen: |logits - reference| / |reference|"
                   ", one sample a row of logits. The record's context names the reference cell."),
        MetricSpec("logits_rel_l2", "", "lower", "max", "rel. L2",
                   "|logits - baseline| / |baseline| over all prompt positions and the vocabulary, one sample a "
                   "sequence."),
        MetricSpec("kl", "nats", "lower", "mean", "KL",
                   "Kullback-Leibler divergence KL(baseline || variant) of the next-token distribution, one sample a "
                   "prompt position."),
        MetricSpec("top1_agreement", "fraction", "higher", "mean", "top-1",
                   "Share of prompt positions whose most likely next token is the baseline's, one sample a sequence."),
        MetricSpec("first_difference", "tokens", "higher", "min", "first diff.",
                   "Greedy tokens before the first that differs from the baseline's, one sample a sequence; the number "
                   "of generated tokens when none does."),
        MetricSpec("acc", "fraction", "higher", "mean", "acc",
                   "accuracy: share of documents answered right, one sample a document (0 or 1)."),
        MetricSpec("acc_norm", "fraction", "higher", "mean", "acc_norm",
                   "accuracy: as acc, with log-likelihoods divided by the answers' lengths in characters."),
        MetricSpec("acc_mutual_info", "fraction", "higher", "mean", "acc (MI)",
                   "accuracy: as acc, by what the context adds to each answer's log-likelihood (mutual information)."),
        MetricSpec("exact_match", "fraction", "higher", "mean", "exact match",
                   "accuracy: share of documents whose generated answer is the right one, one sample a document."),
        MetricSpec("bits_per_byte", "bits/byte", "lower", "mean", "bits/byte",
                   "accuracy: negative log-likelihood of the text in bits over its bytes, one sample a document where "
                   "the mean over documents is lm-eval's figure, else that figure alone."),
        MetricSpec("latency_cold", "ms", "lower", "median", "cold",
                   "op: time of one call with nothing of its inputs in the GPU's L2 cache, launching left out. "
                   "One sample a repetition."),
        MetricSpec("latency", "ms", "lower", "median", "warm",
                   "op: time of one call right after the same call."),
        MetricSpec("flop_rate", "TFLOP/s", "higher", "median", "rate",
                   "op: floating-point operations that cannot be avoided, per second of the cold time (the warm one "
                   "where caches cannot be emptied); the record's context has their number."),
        MetricSpec("byte_rate", "GB/s", "higher", "median", "bytes",
                   "op: bytes that have to be moved at least (every input read once, every output written once), per "
                   "second of the same time."),
        MetricSpec("ceiling_share", "fraction", "higher", "median", "of ceiling",
                   "op: share of the nearer of two ceilings that the same worker measured: bytes per second of a large "
                   "copy, operations per second of a large matrix product. The context says which is the nearer."),
        MetricSpec("error", "", "lower", "max", "error",
                   "op: |answer - truth| / |truth| on fresh inputs, the truth being the eager operator in FP64 on the "
                   "same (for FP8: unquantised) inputs; of selections the share of places that differ."),
        MetricSpec("error_ratio", "", "lower", "max", "x own error",
                   "op: error over that of the eager operator in the same precision (for FP8: in BF16)."),
        MetricSpec("selection_overlap", "fraction", "higher", "mean", "overlap",
                   "op: share of the keys that the true scores select which these scores select too."),
        MetricSpec("registers", "registers", "lower", "max", "most",
                   "compile: 32-bit registers of a thread, one sample a build. Exact, as all metrics of compile."),
        MetricSpec("spills", "bytes/thread", "lower", "max", "spills",
                   "compile: bytes of stack and local memory of a thread (spilled registers, and arrays that found no "
                   "room in registers), one sample a build."),
        MetricSpec("shared_memory", "bytes", "lower", "max", "shared",
                   "compile: bytes of shared memory of a block, one sample a build."),
        MetricSpec("shared_memory_share", "fraction", "lower", "max", "of limit",
                   "compile: shared_memory over what the target allows a block, one sample a build."),
        MetricSpec("operations", "instructions", "lower", "mean", "mean",
                   "compile: machine instructions, one sample a build."),
        MetricSpec("matrix_instructions", "fraction", "higher", "mean", "matrix instr.",
                   "compile: share of the builds with a matrix product whose PTX and machine code have matrix "
                   "instructions (mma, wgmma or tcgen05)."),
        MetricSpec("native_matrix_instructions", "fraction", "higher", "mean", "native",
                   "compile: share of the same builds that have those that only the target runs at full rate: mma on "
                   "sm_80, wgmma on sm_90, tcgen05 on sm_100."),
        MetricSpec("log_loss", "nats", "lower", "mean", "log loss",
                   "accuracy: -log of the right answer's share among the answers' likelihoods, one sample a document."),
    )
}  # fmt: skip


def metric(name: str, samples: Sequence[float]) -> Metric:
    """A measured metric of the table; raises KeyError for a name that is not in it."""
    spec = METRICS[name]
    return Metric(spec.unit, [float(sample) for sample in samples], spec.statistic, spec.better)


def withheld(name: str, reason: str) -> Metric:
    """The metric without a number, and why."""
    spec = METRICS[name]
    return Metric(spec.unit, [], spec.statistic, spec.better, withheld=reason)


def markdown_table() -> str:
    """The table of `results/README.md`; `python -m harness.records.metrics` prints it."""
    rows = ["| metric | unit | better | value is the | meaning |", "|---|---|---|---|---|"]
    for spec in METRICS.values():
        meaning = spec.meaning.replace("|", "\\|")
        rows.append(f"| `{spec.name}` | {spec.unit or '-'} | {spec.better} | {spec.statistic} | {meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_table())
