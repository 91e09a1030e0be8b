"""Bootstrap intervals with a fixed seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.statistics import cluster
from auditor.statistics.cluster import Units, codes, count_units, keep
from auditor.statistics.intervals import NOTHING, Interval
from auditor.statistics.tests import two_sided

RESAMPLES = 1000
BOOTSTRAP_SEED = 20260101

_BLOCK = 4_000_000
"""Numbers in memory at once while resampling confusion matrices."""


def mean_of(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average each draw (draws, n) -> (draws,)."""
    result: NDArray[np.float64] = draws.mean(axis=1)
    return result


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] = mean_of,
    *,
    resamples: int = RESAMPLES,
    units: Units = None,
) -> Interval:
    """Return the percentile bootstrap of ``statistic`` over the first axis of ``values``, without non-finite values.

    ``statistic`` maps resamples (b, n, ...) to (b,). With ``units`` (n,), units are drawn instead of images.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim == 1:
        units, data = keep(units, np.isfinite(data)), data[np.isfinite(data)]
    n = len(data)
    if not n:
        return NOTHING
    value = float(statistic(data[None])[0])
    code = codes(units, n)
    if code.max() == 0:
        return Interval(value, None, None)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = np.concatenate([statistic(data[rows]) for rows in cluster.resamples(code, resamples, rng)])
    return _around(value, draws)


def bootstrap_confusion(
    matrix: NDArray[np.int64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    resamples: int = RESAMPLES,
    pairs: NDArray[np.int64] | None = None,
    units: Units = None,
) -> Interval:
    """Bootstrap a statistic of the confusion matrix.

    Resampling images is resampling cells: one multinomial draw replaces a whole resample, so the cost does not depend
    on the number of images. ``statistic`` maps matrices (b, k, k) to (b,). With ``units`` (n,), units are drawn; this
    needs the label and prediction of each image, ``pairs`` (n, 2).
    """
    n = int(matrix.sum())
    if n == 0:
        return NOTHING
    value = float(statistic(matrix[None].astype(np.float64))[0])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    if units is None or pairs is None:
        # only the cells with images are drawn, in blocks: a thousand resamples of 1000 x 1000 cells need 8 GB
        filled = np.flatnonzero(matrix)
        draws = rng.multinomial(n, matrix.ravel()[filled] / n, size=resamples)
        per_block = max(1, _BLOCK // matrix.size)
        blocks = []
        for start in range(0, resamples, per_block):
            part = draws[start : start + per_block]
            matrices = np.zeros((len(part), matrix.size))
            matrices[:, filled] = part
            blocks.append(statistic(matrices.reshape(-1, *matrix.shape)))
        return _around(value, np.concatenate(blocks))
    code = codes(units, n)
    if code.max() == 0:
        return Interval(value, None, None)
    cell = np.ravel_multi_index((pairs[:, 0], pairs[:, 1]), matrix.shape)
    results = [
        statistic(np.bincount(cell, weights=row, minlength=matrix.size).reshape(1, *matrix.shape).astype(np.float64))
        for weights in cluster.weights(code, resamples, rng)
        for row in weights
    ]
    return _around(value, np.concatenate(results))


def bootstrap_weighted(
    n: int,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    resamples: int = RESAMPLES,
    units: Units = None,
) -> Interval:
    """Bootstrap a statistic of weighted images; ``statistic`` maps weights (b, n) to (b,).

    With ``units`` (n,), units are drawn instead of images.
    """
    if n == 0:
        return NOTHING
    value = float(statistic(np.ones((1, n)))[0])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = np.concatenate([statistic(weights) for weights in cluster.weights(codes(units, n), resamples, rng)])
    single = count_units(units) == 1
    found = Interval(value, None, None) if single else _around(value, draws)
    return found if np.isfinite(value) else found._replace(value=None)


def paired_means(
    first: NDArray[np.float64], second: NDArray[np.float64], *, resamples: int = RESAMPLES, units: Units = None
) -> tuple[Interval, float | None]:
    """Return the difference mean(second) - mean(first) over the same images, (n,) each, with interval and p-value.

    NaN excludes an image from that run. Percentile bootstrap over images, or over ``units`` (n,), both runs resampled
    together. The p-value uses a normal approximation with the bootstrap standard error; it is never below 2^(1 - m),
    the minimum of a sign-flip test if the runs differ on m images or units. None if there is nothing to test.
    """
    if not (np.isfinite(first).any() and np.isfinite(second).any()):
        return NOTHING, None

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return _weighted_mean(second, weights) - _weighted_mean(first, weights)

    n = len(first)
    code = codes(units, n)
    value = float(difference(np.ones((1, n)))[0])
    m = len(np.unique(code[np.nan_to_num(first, nan=np.inf) != np.nan_to_num(second, nan=np.inf)]))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = np.concatenate([difference(weights) for weights in cluster.weights(code, resamples, rng)])
    finite = draws[np.isfinite(draws)]
    error = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    z = abs(value) / error if error else np.inf if value else 0.0
    p_value = two_sided(float(z))
    ends = (None, None) if code.max() == 0 else _percentiles(finite)
    return Interval(value, *ends), min(1.0, max(p_value, 2.0 ** (1 - min(m, 1000))))


def _weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ``values`` (n,) under each row of weights (b, n); ignore NaN."""
    finite = np.isfinite(values)
    total = weights[:, finite].sum(axis=1)
    result: NDArray[np.float64] = np.divide(
        weights[:, finite] @ values[finite], total, out=np.full(len(weights), np.nan), where=total > 0
    )
    return result


def _around(value: float, draws: ArrayLike) -> Interval:
    """Return the percentile interval of a value, extended to contain it.

    With few images per class, macro precision and F1 are biased downwards in resamples, which lack classes.
    """
    low, high = _percentiles(draws)
    if low is None or high is None or not np.isfinite(value):
        return Interval(value, low, high)
    return Interval(value, min(low, value), max(high, value))


def _percentiles(draws: ArrayLike) -> tuple[float | None, float | None]:
    finite = np.asarray(draws, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None, None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
