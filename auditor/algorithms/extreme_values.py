"""Estimate the upper endpoint of a distribution from maxima of many samples (reverse Weibull, extreme value theory).

Maxima of large samples from a distribution with a finite endpoint follow the reverse Weibull law
F(x) = exp(-((end - x) / scale) ** shape) for x < end (Fisher and Tippett 1928; used for Lipschitz constants by Weng et
al. 2018, arXiv:1801.10578, section 4). The fit is by maximum likelihood, for many samples at once: given the endpoint,
the likelihood is that of the ordinary Weibull law, which has one maximum; the endpoint is found by a search.

The shape is limited to [1, 5]. Below 1 the likelihood is unbounded as the endpoint approaches the largest value. Above
5 the law is nearly the same for any endpoint: an unlimited fit returns up to a million times the largest value on
gradients of an ordinary CNN, and SciPy's depends on its starting point. A shape at the limit therefore means that the
values do not determine the endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import reduce
from operator import add, itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHAPES = 1.0, 5.0
_GAPS = 1e-4, 1e2
"""Search range of the endpoint: distance above the largest value, in ranges of the values."""
_GRID = 25
_REFINEMENTS = 4


class Fit(NamedTuple):
    """Reverse Weibull laws, one per row of values; all (n,)."""

    end: NDArray[np.float64]
    shape: NDArray[np.float64]
    scale: NDArray[np.float64]
    ks: NDArray[np.float64]
    """P-value of the Kolmogorov-Smirnov test of the fit. The law was fitted to the same values, so the p-value is too
    large; a small one still shows that the law does not fit."""


def fit_end(values: NDArray[np.floating]) -> Fit:
    """Fit the law to each row of maxima (n, b).

    The endpoint of a row of equal values is that value: the quantity is constant.
    """
    x = np.asarray(values, dtype=np.float64)
    top = x.max(axis=1)
    span = top - x.min(axis=1)
    constant = span <= 1e-6 * np.abs(top)
    span = np.where(constant, 1.0, span)
    low, high = (np.full(len(x), np.log(gap)) for gap in _GAPS)
    for _ in range(1 + _REFINEMENTS):
        grid = np.linspace(low, high, _GRID, axis=1)
        below = (top[:, None] + np.exp(grid) * span[:, None])[:, :, None] - x[:, None, :]
        likelihood, shape, scale = _weibull(below)
        best = likelihood.argmax(axis=1)
        rows = np.arange(len(x))
        low, high = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, _GRID - 1)]
    end = top + np.exp(grid[rows, best]) * span
    shape, scale = shape[rows, best], scale[rows, best]
    law = np.exp(-(((end[:, None] - np.sort(x, axis=1)) / scale[:, None]) ** shape[:, None]))
    return Fit(
        end=np.where(constant, top, end),
        shape=np.where(constant, np.nan, shape),
        scale=np.where(constant, 0.0, scale),
        ks=np.where(constant, np.nan, _kolmogorov_smirnov(law)),
    )


def fit_end_as_art(values: NDArray[np.floating]) -> Fit:
    """Fit by SciPy's ``weibull_min.fit`` from shape 1, as ART does; only for comparison with ART.

    SciPy's starting point and simplex search are kept, and with them its result. All rows step together, and the
    likelihood, which SciPy evaluates by generic code for all distributions, is written out.
    """
    rows = np.asarray(values, dtype=np.float64)
    # few batches from one small pool share their maximum
    constant = np.ptp(rows, axis=1) <= 1e-6 * np.abs(rows).max(axis=1)
    shape, end, scale = np.full(len(rows), np.nan), rows[:, 0].copy(), np.zeros(len(rows))
    x = -rows[~constant]
    with np.errstate(all="ignore"):
        start = np.stack([np.ones(len(x)), x.mean(axis=1) - x.std(axis=1), x.std(axis=1)], axis=1)
        solution = _simplex_search(lambda subset, free: _negative_log_likelihood(x[subset], free), start)
    shape[~constant], end[~constant], scale[~constant] = solution[:, 0], -solution[:, 1], solution[:, 2]
    return Fit(end=end, shape=shape, scale=scale, ks=np.full(len(shape), np.nan))


def _negative_log_likelihood(x: NDArray[np.float64], free: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return minus the log-likelihood of Weibull laws with parameters ``free`` (n, 3): shape, location, scale.

    Values x (n, b); the result (n,) is computed as in ``scipy.stats.weibull_min.fit``.
    """
    shape, location, scale = free.T[:, :, None]
    z = (x - location) / scale
    # logarithms of negative values are undefined; values outside the support get SciPy's penalty
    logs = np.log(shape) + (shape - 1) * np.log(z) - z**shape
    inside = np.isfinite(logs)
    outside = x.shape[1] - inside.sum(axis=1)
    penalty = outside * 100 * np.log(np.finfo(np.float64).max)
    negative_log_likelihood = penalty - np.where(inside, logs, 0).sum(axis=1) + x.shape[1] * np.log(scale[:, 0])
    return np.where((free[:, 0] <= 0) | (free[:, 2] <= 0), np.inf, negative_log_likelihood)


_Corner = tuple[float, list[float]]


def _simplex_search(
    f: Callable[[list[int], NDArray[np.float64]], NDArray[np.float64]], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimise f from each row of ``start`` (n, d) like ``scipy.optimize.fmin`` with its defaults; return (n, d).

    ``f`` is evaluated for many rows at once: their indices (m), and one point for each (m, d); its values are (m,).
    """
    simplexes: list[list[_Corner]] = [[] for _ in start]
    searches = [_search(point, simplex) for point, simplex in zip(start.tolist(), simplexes, strict=True)]
    pending = {row: next(search) for row, search in enumerate(searches)}
    for _ in range(200 * start.shape[1]):
        if not pending:
            break
        values = f(list(pending), np.array(list(pending.values())))
        for row, value in zip(list(pending), values.tolist(), strict=True):
            try:
                pending[row] = searches[row].send(value)
            except StopIteration:
                del pending[row]
    return np.array([min(simplex, key=itemgetter(0))[1] for simplex in simplexes]).reshape(start.shape)


def _search(start: list[float], simplex: list[_Corner]) -> Generator[list[float], float]:
    """Run the Nelder-Mead search (1965) with the steps of ``scipy.optimize.fmin``.

    Yields the points whose values it needs, and keeps ``simplex`` up to date, best corner first.
    """
    simplex.append(((yield start), start))
    for k, value in enumerate(start):
        point = [*start[:k], 1.05 * value if value else 0.00025, *start[k + 1 :]]
        simplex.append(((yield point), point))
    while True:
        simplex.sort(key=itemgetter(0))
        (least, best), (most, worst) = simplex[0], simplex[-1]
        if most - least <= 1e-4 and all(
            abs(a - b) <= 1e-4 for _, point in simplex[1:] for a, b in zip(point, best, strict=True)
        ):
            return
        # not sum: since Python 3.12 it is more exact than NumPy's and SciPy's sums
        centre = [reduce(add, each) / len(start) for each in zip(*(point for _, point in simplex[:-1]), strict=True)]
        reflected = _reflect(centre, worst, 1)
        value = yield reflected
        if value < least:
            expanded = _reflect(centre, worst, 2)
            further = yield expanded
            simplex[-1] = (further, expanded) if further < value else (value, reflected)
        elif value < simplex[-2][0]:
            simplex[-1] = value, reflected
        else:
            contracted = _reflect(centre, worst, 0.5 if value < most else -0.5)
            closer = yield contracted
            if closer <= value if value < most else closer < most:
                simplex[-1] = closer, contracted
                continue
            for j in range(1, len(simplex)):
                point = [a + 0.5 * (b - a) for a, b in zip(best, simplex[j][1], strict=True)]
                simplex[j] = (yield point), point


def _reflect(centre: list[float], worst: list[float], step: float) -> list[float]:
    """Reflect the worst point through the centre, at ``step`` times its distance."""
    return [(1 + step) * a - step * b for a, b in zip(centre, worst, strict=True)]


def _weibull(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return log-likelihood, shape and scale (...) of the two-parameter Weibull law that best fits z (..., b) > 0."""
    logs = np.log(z)
    centre = logs.mean(axis=-1)
    logs = logs - centre[..., None]
    # Menon's estimate (1963) starts Newton's method on 1/shape = sum(w ln z) - mean(ln z), w = z^shape / sum(z^shape)
    shape = np.clip(np.pi / np.sqrt(6) / np.maximum(logs.std(axis=-1), 1e-9), *SHAPES)
    for _ in range(8):
        power = np.exp(shape[..., None] * logs)
        total = power.sum(axis=-1)
        first = (power * logs).sum(axis=-1) / total
        second = (power * logs**2).sum(axis=-1) / total
        shape = np.clip(shape + (1 / shape - first) / (1 / shape**2 + second - first**2), *SHAPES)
    log_scale = np.log(np.exp(shape[..., None] * logs).mean(axis=-1)) / shape
    fitted = np.exp(shape[..., None] * (logs - log_scale[..., None])).mean(axis=-1)
    likelihood = np.log(shape) - shape * log_scale - fitted - centre
    return likelihood, shape, np.exp(log_scale + centre)


def _kolmogorov_smirnov(law: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values of the test that rows of sorted probabilities (n, b) are uniform."""
    from scipy.stats import kstwo

    b = law.shape[1]
    steps = np.arange(b + 1) / b
    distance = np.maximum((steps[1:] - law).max(axis=1), (law - steps[:-1]).max(axis=1))
    p: NDArray[np.float64] = kstwo.sf(distance, b)
    return p
