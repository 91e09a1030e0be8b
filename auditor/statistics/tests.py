"""Significance tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from auditor.statistics.intervals import NOTHING, Interval


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact one-sided p-value of "the first is no better", from the images on which two differ.

    McNemar 1947: the probability of at least ``gained`` heads in ``gained + lost`` tosses of a fair coin.
    """
    from scipy.stats import binom

    return float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0


def binomial_greater(successes: int, n: int, share: float) -> float:
    """Return the exact one-sided p-value of "the proportion is at most ``share``" (Clopper and Pearson 1934)."""
    from scipy.special import bdtrc

    return float(bdtrc(successes - 1, n, share)) if n and successes else 1.0


def mcnemar_two_sided(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test on the images on which two runs disagree.

    Two-sided binomial test of ``only_first`` against ``only_second`` at 1/2 (McNemar 1947; exact form: Dietterich 1998,
    section 3.1, for small counts). 1 if the runs agree on every image.
    """
    # not scipy.stats, whose import takes a second
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def from_intervals(first: Interval, second: Interval) -> tuple[Interval, float | None]:
    """Return the difference second - first, and its p-value, of two numbers of which only the intervals are known.

    The squared distances to the ends are added (Zou and Donner 2008, Stat. Med. 27, 1693-1702), as for independent
    samples: conservative if both come from the same images. None if an interval is missing or is a point.
    """
    if first.value is None or second.value is None:
        return NOTHING, None
    value = second.value - first.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Interval(value, None, None), None
    down = float(np.hypot(second.value - second.low, first.high - first.value))
    up = float(np.hypot(second.high - second.value, first.value - first.low))
    # use the side towards zero, which the difference would have to cross to vanish
    half = down if value > 0 else up
    if half <= 0:
        return Interval(value, None, None), None
    z = abs(value) / half * NormalDist().inv_cdf(0.975)
    return Interval(value, value - down, value + up), two_sided(z)


def two_sided(z: float) -> float:
    """Return the p-value of a standard normal statistic. Not as 1 - cdf, which is 0 from z = 8.3 on."""
    return math.erfc(abs(z) / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
