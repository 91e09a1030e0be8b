"""Intervals and tests. Every interval here is at 95 %.

Proportions get Wilson's score interval, differences of proportions Newcombe's, everything else a percentile bootstrap
over images with a fixed seed. "No data" is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.finding import Metric, Scalar

RESAMPLES = 1000
_BOOTSTRAP_SEED = 20260101


class Interval(NamedTuple):
    """A value with the ends of its interval; all None when there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None


NOTHING = Interval(None, None, None)


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1)."""
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    # the formula gives 0 and 1 at the ends only up to rounding
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high)


def newcombe(successes: tuple[int, int], n: tuple[int, int], *, confidence: float = 0.95) -> Interval:
    """Interval of the difference p1 - p2 of two independent proportions (Newcombe 1998, method 10)."""
    if not (n[0] and n[1]):
        return NOTHING
    a, b = (wilson(s, m, confidence=confidence) for s, m in zip(successes, n, strict=True))
    p1, l1, u1 = (float(v) for v in a if v is not None)
    p2, l2, u2 = (float(v) for v in b if v is not None)
    difference = p1 - p2
    low = difference - float(np.hypot(p1 - l1, u2 - p2))
    high = difference + float(np.hypot(u1 - p1, p2 - l2))
    return Interval(difference, max(-1.0, low), min(1.0, high))


def matched(gained: int, lost: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Interval of the difference of two proportions on the same ``n`` images, of which ``gained`` are right only for
    the first and ``lost`` only for the second (Agresti and Min 2005, Statistics in Medicine 24, 729-740: Wald's
    interval after adding 1/2 to each cell)."""
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    value = (gained - lost) / n
    centre = (gained - lost) / (n + 2)
    half = z * float(np.sqrt(gained + lost + 1 - (gained - lost) ** 2 / (n + 2))) / (n + 2)
    return Interval(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def mcnemar(gained: int, lost: int) -> float:
    """Exact one-sided p-value of "the first is no better", from the images on which two differ (McNemar 1947): the
    chance of at least ``gained`` heads in ``gained + lost`` throws of a fair coin."""
    from scipy.stats import binom

    return float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0


def _mean(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = draws.mean(axis=1)
    return result


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] = _mean,
    *,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap of ``statistic`` over the first axis of ``values``; non-finite values are left out.

    ``statistic`` takes resamples (b, n, ...) and returns (b,).
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)] if data.ndim == 1 else data
    n = len(data)
    if not n:
        return NOTHING
    value = float(statistic(data[None])[0])
    if n == 1:
        return Interval(value, None, None)
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    draws: list[float] = []
    while len(draws) < resamples:
        # many at once, which is fifty times faster, and few enough to fit into the cache
        block = min(resamples - len(draws), max(1, 200_000 // n))
        draws.extend(statistic(data[rng.integers(0, n, (block, n))]).tolist())
    return Interval(value, *_percentiles(draws))


def bootstrap_confusion(
    matrix: NDArray[np.int64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    resamples: int = RESAMPLES,
) -> Interval:
    """Bootstrap of a statistic of the confusion matrix.

    Resampling images is resampling cells: one multinomial draw stands for a whole resample, so this costs the same
    for a hundred images as for a million. ``statistic`` takes matrices (b, k, k) and returns (b,).
    """
    n = int(matrix.sum())
    if n == 0:
        return NOTHING
    value = float(statistic(matrix[None].astype(np.float64))[0])
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    draws = rng.multinomial(n, (matrix / n).ravel(), size=resamples).reshape(resamples, *matrix.shape)
    return Interval(value, *_percentiles(statistic(draws.astype(np.float64))))


def bootstrap_weighted(
    n: int, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, resamples: int = RESAMPLES
) -> Interval:
    """Bootstrap of a statistic of weighted images; ``statistic`` takes weights (b, n) and returns (b,)."""
    if n == 0:
        return NOTHING
    value = float(statistic(np.ones((1, n)))[0])
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    draws: list[float] = []
    while len(draws) < resamples:
        # blocks, so that 1000 resamples of 100,000 images do not need a gigabyte
        block = min(resamples - len(draws), max(1, 4_000_000 // n))
        weights = rng.multinomial(n, np.full(n, 1 / n), size=block).astype(np.float64)
        draws.extend(statistic(weights).tolist())
    return Interval(value if np.isfinite(value) else None, *_percentiles(draws))


def mcnemar_two_sided(only_first: int, only_second: int) -> float:
    """P-value of McNemar's exact test: of the images on which two runs disagree, is one side favoured?

    Two-sided binomial test of ``only_first`` against ``only_second`` at 1/2 (McNemar 1947; exact form: Dietterich 1998,
    section 3.1, for small counts). 1 where the runs disagree on no image.
    """
    # not scipy.stats, which takes a second to import
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def paired_proportions(only_first: int, only_second: int, n: int) -> Interval:
    """Interval of the difference p_second - p_first of two proportions on the same ``n`` images.

    Adjusted Wald (Bonett and Price 2012, J. Educ. Behav. Stat. 37, 479-488): does not shrink to a point where the two
    disagree on no image, as the bootstrap does.
    """
    if n == 0:
        return NOTHING
    z = NormalDist().inv_cdf(0.975)
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = second - first
    half = z * float(np.sqrt((first + second - centre * centre) / (n + 2)))
    return Interval((only_second - only_first) / n, max(-1.0, centre - half), min(1.0, centre + half))


def paired_means(
    first: NDArray[np.float64], second: NDArray[np.float64], *, resamples: int = RESAMPLES
) -> tuple[Interval, float | None]:
    """Difference mean(second) - mean(first) over the same images, (n,) each, with its interval and p-value.

    NaN is an image that does not count for this run. Percentile bootstrap over images, both runs drawn together. The
    p-value takes the bootstrap's standard error as normal; it is never below 2^(1 - m), the least that a sign-flip test
    can give where the runs differ on m images. None where there is nothing to test.
    """
    if not (np.isfinite(first).any() and np.isfinite(second).any()):
        return NOTHING, None

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _weighted_mean(second, weights) - _weighted_mean(first, weights)

    n = len(first)
    value = float(difference(np.ones((1, n)))[0])
    m = int((np.nan_to_num(first, nan=np.inf) != np.nan_to_num(second, nan=np.inf)).sum())
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    draws: list[float] = []
    while len(draws) < resamples:
        block = min(resamples - len(draws), max(1, 4_000_000 // n))
        draws.extend(difference(rng.multinomial(n, np.full(n, 1 / n), size=block).astype(np.float64)).tolist())
    finite = np.asarray(draws)[np.isfinite(draws)]
    error = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    z = abs(value) / error if error else np.inf if value else 0.0
    p_value = _two_sided(float(z))
    ends = (None, None) if n == 1 else _percentiles(finite)
    return Interval(value, *ends), min(1.0, max(p_value, 2.0 ** (1 - min(m, 1000))))


def from_intervals(first: Interval, second: Interval) -> tuple[Interval, float | None]:
    """Difference second - first of two numbers of which only the intervals are known, and its p-value.

    Squares of the distances to the ends are added (Zou and Donner 2008, Stat. Med. 27, 1693-1702), as for independent
    samples: cautious where both come from the same images. None where an interval is missing or is a point.
    """
    if first.value is None or second.value is None:
        return NOTHING, None
    value = second.value - first.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Interval(value, None, None), None
    down = float(np.hypot(second.value - second.low, first.high - first.value))
    up = float(np.hypot(second.high - second.value, first.value - first.low))
    # towards zero lies what would have to be crossed for there to be no difference
    half = down if value > 0 else up
    if half <= 0:
        return Interval(value, None, None), None
    z = abs(value) / half * NormalDist().inv_cdf(0.975)
    return Interval(value, value - down, value + up), _two_sided(z)


def _two_sided(z: float) -> float:
    """P-value of a standard normal statistic. Not as 1 - cdf, which is 0 from z = 8.3 on."""
    return math.erfc(abs(z) / math.sqrt(2))


def _weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of ``values`` (n,) under each row of weights (b, n); NaN values do not count."""
    there = np.isfinite(values)
    total = weights[:, there].sum(axis=1)
    result: NDArray[np.float64] = np.divide(
        weights[:, there] @ values[there], total, out=np.full(len(weights), np.nan), where=total > 0
    )
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def roc_auc(labels: NDArray[Any], scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """One-against-rest ROC-AUC, mean over classes with both sides, for each row of image weights (b, n).

    The area is the chance that a positive image scores above a negative one, ties counting half (Mann-Whitney).
    """
    total = np.zeros(len(weights))
    counted = np.zeros(len(weights))
    for k in range(scores.shape[1]):
        positive = labels == k
        if not positive.any() or positive.all():
            continue
        area, pairs = _area(positive, scores[:, k], weights)
        total += np.divide(area, pairs, out=np.zeros_like(area), where=pairs > 0)
        counted += pairs > 0
    return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)


def roc_auc_micro(
    labels: NDArray[Any], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """ROC-AUC over all pairs of an image and a class, positive where it is the label, for each row of image weights
    (b, n)."""
    k = scores.shape[1]
    positive = (labels[:, None] == np.arange(k)).ravel()
    found = np.full(len(weights), np.nan)
    # a few rows at a time: a thousand draws of all pairs do not fit into memory
    for rows in np.array_split(np.arange(len(weights)), max(1, weights.size * k // 4_000_000)):
        area, pairs = _area(positive, scores.ravel(), np.repeat(weights[rows], k, axis=1))
        np.divide(area, pairs, out=area, where=pairs > 0)
        found[rows] = np.where(pairs > 0, area, np.nan)
    return found


def _area(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of the pairs of a positive and a negative in which the positive scores higher, and of all pairs; (b,)."""
    order = np.argsort(scores, kind="stable")
    w, p = weights[:, order], positive[order]
    # equal scores form one step of the curve
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    positives = np.add.reduceat(w * p, starts, axis=1)
    negatives = np.add.reduceat(w * ~p, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    return (positives * (below + negatives / 2)).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1)


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15) -> float:
    """Expected calibration error with bins of equal mass; confidences and correctness (n,).

    Mean over bins of |accuracy - confidence|, weighted by size (Guo et al. 2017, arXiv:1706.04599; equal mass after
    Nixon et al. 2019, arXiv:1904.01685). Above zero even for a perfect model; see ``calibration_error_debiased``.
    """
    pairs = np.stack([np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)], axis=-1)
    return float(_calibration_errors(pairs[None], bins)[0])


def _calibration_errors(pairs: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """The calibration error of samples (b, n, 2) of confidence and correctness, (b,)."""
    n = pairs.shape[1]
    order = np.argsort(pairs[..., 0], axis=1, kind="stable")
    gaps = np.take_along_axis(pairs[..., 0] - pairs[..., 1], order, axis=1)
    parts = np.array_split(np.arange(n), min(bins, n))
    result: NDArray[np.float64] = np.sum([abs(gaps[:, p[0] : p[-1] + 1].sum(axis=1)) for p in parts], axis=0) / n
    return result


def calibration_interval(
    confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15, *, resamples: int = RESAMPLES
) -> Interval:
    """``calibration_error`` with its bootstrap interval.

    Resampling adds unevenness of its own, so the percentiles lie too high: the interval is widened where it does not
    hold the value.
    """
    pairs = np.column_stack([confidence, correct])
    value, low, high = bootstrap(pairs, lambda draws: _calibration_errors(draws, bins), resamples=resamples)
    if value is None or low is None or high is None:
        return Interval(value, low, high)
    return Interval(value, min(low, value), max(high, value))


def calibration_error_debiased(confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15) -> float:
    """Root mean square calibration error less what chance alone adds to it (Kumar, Liang and Ma 2019,
    arXiv:1909.10155, definition 5.1); bins of equal mass, 0 where chance explains all of it."""
    parts = [p for p in np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence))) if len(p) > 1]
    total = sum(len(p) for p in parts)
    if not total:
        return 0.0
    square = (
        sum(
            len(p)
            * (
                (confidence[p].mean() - correct[p].mean()) ** 2
                - correct[p].mean() * (1 - correct[p].mean()) / (len(p) - 1)
            )
            for p in parts
        )
        / total
    )
    return float(max(square, 0.0) ** 0.5)


def proportion(name: str, hits: ArrayLike, *, at: Mapping[str, Scalar] | None = None, unit: str = "fraction") -> Metric:
    """The share of True in ``hits`` as a metric with Wilson's interval."""
    flags = np.asarray(hits, dtype=bool)
    value, low, high = wilson(int(flags.sum()), len(flags))
    return Metric(name=name, value=value, low=low, high=high, n=len(flags), unit=unit, at=at or {})


def median(name: str, values: ArrayLike, *, unit: str, at: Mapping[str, Scalar] | None = None) -> Metric:
    """The median as a metric with a bootstrap interval; infinite values (an unbroken image) count as they stand.

    The median of a sample in which half the images stay unbroken is itself infinite, which audit.json writes as null.
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[~np.isnan(data)]
    if not len(data):
        return Metric(name=name, value=None, n=0, unit=unit, at=at or {})
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    draws = np.median(data[rng.integers(0, len(data), (RESAMPLES, len(data)))], axis=1)
    # "lower"/"higher" keep infinities out of the interpolation, which would turn them into NaN
    low = float(np.quantile(draws, 0.025, method="lower"))
    high = float(np.quantile(draws, 0.975, method="higher"))
    return Metric(name=name, value=float(np.median(data)), low=low, high=high, n=len(data), unit=unit, at=at or {})


def mean(name: str, values: ArrayLike, *, unit: str, at: Mapping[str, Scalar] | None = None) -> Metric:
    """The mean as a metric with a bootstrap interval."""
    data = np.asarray(values, dtype=np.float64)
    value, low, high = bootstrap(data)
    return Metric(name=name, value=value, low=low, high=high, n=int(np.isfinite(data).sum()), unit=unit, at=at or {})


def _percentiles(draws: ArrayLike) -> tuple[float | None, float | None]:
    finite = np.asarray(draws, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None, None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
