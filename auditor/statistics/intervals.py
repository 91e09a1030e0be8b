"""Confidence intervals at 95 %.

Proportions have Wilson's score interval, differences of proportions Newcombe's, other statistics a percentile bootstrap
over images with a fixed seed. "No data" is None, never 0. Counts need not be whole: for correlated images they are
effective counts (``auditor/statistics/cluster.py``).
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.statistics.cluster import Units, count_units, effective_n


class Interval(NamedTuple):
    """A value with the ends of its interval; all None if there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None


NOTHING = Interval(None, None, None)


def wilson(successes: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1)."""
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    # the formula gives exact 0 and 1 only up to rounding
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high)


def newcombe(successes: tuple[float, float], n: tuple[float, float], *, confidence: float = 0.95) -> Interval:
    """Return the interval of the difference p1 - p2 of two independent proportions (Newcombe 1998, method 10)."""
    if not (n[0] and n[1]):
        return NOTHING
    a, b = (wilson(s, m, confidence=confidence) for s, m in zip(successes, n, strict=True))
    p1, l1, u1 = (float(v) for v in a if v is not None)
    p2, l2, u2 = (float(v) for v in b if v is not None)
    difference = p1 - p2
    low = difference - float(np.hypot(p1 - l1, u2 - p2))
    high = difference + float(np.hypot(u1 - p1, p2 - l2))
    return Interval(difference, max(-1.0, low), min(1.0, high))


def median_interval(values: NDArray[np.float64], *, confidence: float = 0.95, units: Units = None) -> Interval:
    """Return the median of ``values`` (n,) with its exact interval between two order statistics.

    Distribution-free (David and Nagaraja 2003, section 7.1), so it holds at any confidence, unlike a bootstrap. The
    ends are infinite if there are too few values for the confidence. With ``units`` (n,), the ranks are those of the
    effective n of the values up to the median (Woodruff 1952, J. Am. Stat. Assoc. 47, 635-646).
    """
    from scipy.stats import binom

    n = len(values)
    if n == 0:
        return NOTHING
    ordered = np.sort(values)
    independent = effective_n(values <= np.median(ordered), units)
    # the tolerance is for rounding: the effective n of copies is a whole number
    rank = int(binom.ppf((1 - confidence) / 2, int(independent + 1e-6), 0.5))
    if rank == 0:
        return Interval(float(np.median(ordered)), -float("inf"), float("inf"))
    first = int((rank - 1) * n / independent + 1e-6)
    return Interval(float(np.median(ordered)), float(ordered[first]), float(ordered[n - 1 - first]))


def mean_interval(values: NDArray[np.float64], *, confidence: float = 0.95, units: Units = None) -> Interval:
    """Return the mean of ``values`` (n,) with Student's interval; infinite ends for fewer than two values or units.

    With ``units`` (n,), the variance is that between units, with one degree of freedom less than units.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        return NOTHING
    value = float(values.mean())
    k = count_units(units) or n
    if k == 1:
        return Interval(value, -float("inf"), float("inf"))
    error = float(values.std()) / (effective_n(values, units) - 1) ** 0.5
    half = float(stdtrit(k - 1, 0.5 + confidence / 2)) * error
    return Interval(value, value - half, value + half)


def matched(gained: float, lost: float, n: float, *, confidence: float = 0.95) -> Interval:
    """Return the interval of the difference of two proportions on the same ``n`` images.

    ``gained`` images are correct only for the first, ``lost`` only for the second (Agresti and Min 2005, Statistics in
    Medicine 24, 729-740: Wald's interval after adding 1/2 to each cell).
    """
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    value = (gained - lost) / n
    centre = (gained - lost) / (n + 2)
    half = z * float(np.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (n + 2))) / (n + 2)
    return Interval(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def paired_proportions(only_first: float, only_second: float, n: float) -> Interval:
    """Return the interval of the difference p_second - p_first of two proportions on the same ``n`` images.

    Adjusted Wald (Bonett and Price 2012, J. Educ. Behav. Stat. 37, 479-488): unlike the bootstrap it does not shrink to
    a point if the two agree on every image.
    """
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.975)
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = second - first
    half = z * float(np.sqrt((first + second - centre * centre) / (n + 2)))
    return Interval((only_second - only_first) / n, max(-1.0, centre - half), min(1.0, centre + half))
