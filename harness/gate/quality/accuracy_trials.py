"""Simulated comparisons of accuracy: does the paired gate find a drop that two independent errors do not see?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from harness.gate.judges.accuracy import decide
from harness.gate.quality.replay import Share
from harness.gate.statistics.levels import MISS
from harness.gate.statistics.paired import binary_loss
from harness.gate.verdict import Verdict

DOCUMENTS, DROP, DISCORDANT, ACCURACY, ALPHA = 1000, 0.02, 0.03, 0.75, 0.05
"""One task: its documents, the true drop, the share on which exactly one side is right, base accuracy, level."""

TRIALS = 2000


@dataclass(frozen=True)
class AccuracyTrials:
    """How often each way of looking at the same answers calls a regression."""

    paired: Share
    """The gate's verdict is `regression`."""
    unpaired: Share
    """A one-sided test with two independent standard errors rejects."""
    same: Share
    """`regression` where both sides are right on as many documents, at the same rate of discordant ones."""
    identical: Share
    """`regression` where no answer differs."""

    @classmethod
    def simulate(cls, trials: int = TRIALS, seed: int = 0) -> AccuracyTrials:
        """Draw all trials."""
        rng = np.random.default_rng(seed)
        dropped = rng.multinomial(DOCUMENTS, _chances(DROP), trials)
        unchanged = rng.multinomial(DOCUMENTS, _chances(0.0), trials)
        return cls(
            paired=Share(sum(_paired(lost, gained) for lost, gained, _, _ in dropped), trials),
            unpaired=Share(sum(_unpaired(*row) for row in dropped), trials),
            same=Share(sum(_paired(lost, gained) for lost, gained, _, _ in unchanged), trials),
            identical=Share(int(_paired(0, 0)), 1),
        )

    def text(self) -> str:
        """A sentence and a table."""
        rows = [
            ("paired (this gate), true drop", _shown(self.paired), "at least 95%"),
            ("two independent standard errors, true drop", _shown(self.unpaired), "less than half"),
            ("paired, no drop, as many discordant documents", _shown(self.same), f"at most {100 * ALPHA:g}%"),
            ("paired, both sides the same model", f"{self.identical.count}", "0"),
        ]
        what = (
            f"{self.paired.windows:,} simulated trials: {DOCUMENTS:,} documents, base accuracy {100 * ACCURACY:g}%, a "
            f"true drop of {100 * DROP:g} points, {100 * DISCORDANT:g}% discordant documents, alpha {100 * ALPHA:g}% "
            f"one-sided; a drop of {100 * DROP:g} points is passed with a chance of {100 * MISS:g}% at most."
        )
        headers = ("called a regression", "share of trials", "goal")
        return f"{what}\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}"


def _chances(drop: float) -> list[float]:
    """Of a document: right on the base only, right on the new side only, right on both, on none."""
    lost, gained = (DISCORDANT + drop) / 2, (DISCORDANT - drop) / 2
    return [lost, gained, ACCURACY - lost, 1 - ACCURACY - gained]


def _paired(lost: int, gained: int) -> bool:
    loss = binary_loss(int(lost), int(gained), DOCUMENTS, ALPHA, MISS)
    return decide(loss, 0.0, DROP, ALPHA) == Verdict.REGRESSION


def _unpaired(lost: int, gained: int, both: int, _: int) -> bool:
    base, new = (lost + both) / DOCUMENTS, (gained + both) / DOCUMENTS
    error = math.sqrt((base * (1 - base) + new * (1 - new)) / DOCUMENTS)
    return bool((base - new) / error > 1.6449)


def _shown(share: Share) -> str:
    low, high = share.interval
    return f"{100 * share.value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
