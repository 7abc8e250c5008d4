"""What the harness reads first, in every process: names, reasons, and where the code is. No torch."""

from harness.contract import Option, hookimpl


def unsupported(query):
    reasons = []
    if query.variant.engine != "native":
        reasons.append(f"selector sliding is made for engine native, not {query.variant.engine}")
    if not query.config.index_topk:
        reasons.append("selector sliding takes as many keys as DSA would; this model has no index_topk")
    return reasons


@hookimpl
def harness_options():
    return [
        Option(
            axis="selector",
            name="sliding",
            factory="harness_sliding.selector:SLIDING",
            summary="the nearest index_topk keys: what does the learned indexer add?",
            unsupported=unsupported,
        )
    ]
