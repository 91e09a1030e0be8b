"""Bootstrap intervals with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.statistics.intervals import NOTHING, Interval
from auditor.statistics.tests import two_sided

RESAMPLES = 1000
BOOTSTRAP_SEED = 20260101


def mean_of(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each draw (draws, n) -> (draws,)."""
    result: NDArray[np.float64] = draws.mean(axis=1)
    return result


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    *,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap of ``statistic`` over the first axis of ``values``, without non-finite values.

    ``statistic`` maps resamples (b, n, ...) to (b,).
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)] if data.ndim == 1 else data
    n = len(data)
    if not n:
        return NOTHING
    value = float(statistic(data[None])[0])
    if n == 1:
        return Interval(value, None, None)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws: list[float] = []
    while len(draws) < resamples:
        # many resamples at once (fifty times faster), but few enough for the cache
        block = min(resamples - len(draws), max(1, 200_000 // n))
        draws.extend(statistic(data[rng.integers(0, n, (block, n))]).tolist())
    return Interval(value, *_percentiles(draws))


def bootstrap_confusion(
    matrix: NDArray[np.int64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    resamples: int = RESAMPLES,
) -> Interval:
    """Bootstrap a statistic of the confusion matrix.

    Resampling images is resampling cells: one multinomial draw replaces a whole resample, so the cost does not depend
    on the number of images. ``statistic`` maps matrices (b, k, k) to (b,).
    """
    n = int(matrix.sum())
    if n == 0:
        return NOTHING
    value = float(statistic(matrix[None].astype(np.float64))[0])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = rng.multinomial(n, (matrix / n).ravel(), size=resamples).reshape(resamples, *matrix.shape)
    return Interval(value, *_percentiles(statistic(draws.astype(np.float64))))


def bootstrap_weighted(
    n: int, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, resamples: int = RESAMPLES
) -> Interval:
    """Bootstrap a statistic of weighted images; ``statistic`` maps weights (b, n) to (b,)."""
    if n == 0:
        return NOTHING
    value = float(statistic(np.ones((1, n)))[0])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws: list[float] = []
    while len(draws) < resamples:
        # in blocks, because 1000 resamples of 100,000 images need a gigabyte
        block = min(resamples - len(draws), max(1, 4_000_000 // n))
        weights = rng.multinomial(n, np.full(n, 1 / n), size=block).astype(np.float64)
        draws.extend(statistic(weights).tolist())
    return Interval(value if np.isfinite(value) else None, *_percentiles(draws))


def paired_means(
    first: NDArray[np.float64], second: NDArray[np.float64], *, resamples: int = RESAMPLES
) -> tuple[Interval, float | None]:
    """Return the difference mean(second) - mean(first) over the same images, (n,) each, with interval and p-value.

    NaN excludes an image from that run. Percentile bootstrap over images, both runs resampled together. The p-value
    uses a normal approximation with the bootstrap standard error; it is never below 2^(1 - m), the minimum of a
    sign-flip test if the runs differ on m images. None if there is nothing to test.
    """
    if not (np.isfinite(first).any() and np.isfinite(second).any()):
        return NOTHING, None

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _weighted_mean(second, weights) - _weighted_mean(first, weights)

    n = len(first)
    value = float(difference(np.ones((1, n)))[0])
    m = int((np.nan_to_num(first, nan=np.inf) != np.nan_to_num(second, nan=np.inf)).sum())
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws: list[float] = []
    while len(draws) < resamples:
        block = min(resamples - len(draws), max(1, 4_000_000 // n))
        draws.extend(difference(rng.multinomial(n, np.full(n, 1 / n), size=block).astype(np.float64)).tolist())
    finite = np.asarray(draws)[np.isfinite(draws)]
    error = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    z = abs(value) / error if error else np.inf if value else 0.0
    p_value = two_sided(float(z))
    ends = (None, None) if n == 1 else _percentiles(finite)
    return Interval(value, *ends), min(1.0, max(p_value, 2.0 ** (1 - min(m, 1000))))


def _weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ``values`` (n,) under each row of weights (b, n); ignore NaN."""
    finite = np.isfinite(values)
    total = weights[:, finite].sum(axis=1)
    result: NDArray[np.float64] = np.divide(
        weights[:, finite] @ values[finite], total, out=np.full(len(weights), np.nan), where=total > 0
    )
    return result


def _percentiles(draws: ArrayLike) -> tuple[float | None, float | None]:
    finite = np.asarray(draws, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None, None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
