"""Significance tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

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


def fisher_lower(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the one-sided p-value of Fisher's exact test of "the first share is no lower than the second".

    ``first`` and ``second`` are (hits, n) of two independent samples. Exact for any n, so that small groups raise no
    false alarm at the strict levels of many tests, where the normal approximation fails.
    """
    from scipy.stats import hypergeom

    (hits, n), (other_hits, other_n) = first, second
    return min(1.0, float(hypergeom.cdf(hits, n + other_n, hits + other_hits, n))) if n and other_n else 1.0


def rank_lower(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the one-sided p-value of the rank-sum test of "the first sample, (n,), is no lower than the second, (m,)".

    Mann and Whitney 1947; infinite values rank above all others. 1 if all values are equal.
    """
    from scipy.stats import mannwhitneyu

    if not (len(first) and len(second)):
        return 1.0
    # ranks, because SciPy does not accept infinite values
    ranks = np.unique(np.concatenate([first, second]), return_inverse=True)[1]
    if not ranks.any():
        return 1.0
    return float(mannwhitneyu(ranks[: len(first)], ranks[len(first) :], alternative="less").pvalue)


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Adjust p-values for their number (Holm 1979); ``weights`` share the level unequally, by default equally."""
    shares = [1.0] * len(p_values) if weights is None else list(weights)
    adjusted = [0.0] * len(p_values)
    running, remaining = 0.0, sum(shares)
    for index in sorted(range(len(p_values)), key=lambda i: p_values[i] / shares[i]):
        running = max(running, min(1.0, p_values[index] * remaining / shares[index]))
        adjusted[index] = running
        remaining -= shares[index]
    return adjusted
