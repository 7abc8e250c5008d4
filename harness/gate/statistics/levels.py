"""Chances that every comparison of stored or scored values keeps to, and one constant of the normal distribution."""

MISS = 0.05
"""Chance of passing what is just bad enough to be caught: `pass` needs the one-sided 95% bound below it."""

POWER = 0.8
"""The chance with which the smallest loss that "could have been shown" would have been."""

MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""
