"""Where a distribution ends, seen from the largest values of many samples (reverse Weibull, extreme value theory).

Largest values of samples from a distribution with a finite end follow, for large samples, the reverse Weibull law
F(x) = exp(-((end - x) / scale) ** shape) for x < end (Fisher and Tippett 1928; used for Lipschitz constants by Weng et
al. 2018, arXiv:1801.10578, section 4). The fit here is by maximum likelihood, for many samples at once: for a given
end it is that of the ordinary Weibull law, which has one maximum, and the end is found by searching.

The shape stays within [1, 5]. Below 1 the likelihood grows without bound as the end approaches the largest value. Above
5 the law looks the same for ends near and far: a fit without this limit lands anywhere, up to a million times the
largest value on gradients of an ordinary CNN, and SciPy's depends on where it starts. A shape at the limit therefore
says that the values do not tell where they end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHAPES = 1.0, 5.0
_GAPS = 1e-4, 1e2
"""Where the end is looked for: beyond the largest value, in ranges of the values."""
_GRID = 25
_REFINEMENTS = 4


class Fit(NamedTuple):
    """Reverse Weibull laws, one for each row of values; all (n,)."""

    end: NDArray[np.float64]
    shape: NDArray[np.float64]
    scale: NDArray[np.float64]
    ks: NDArray[np.float64]
    """P-value of the Kolmogorov-Smirnov test that the values follow the law. The law was fitted to the same values, so
    it is too large; a small one still says that the law does not fit."""


def fit_end(values: NDArray[np.floating]) -> Fit:
    """Fit the law to each row of largest values (n, b).

    Rows whose values are all the same end there: the quantity is constant.
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
    """The same by SciPy's ``weibull_min.fit`` from shape 1, as ART does it: for comparison with ART only.

    SciPy's start and its simplex search are kept, and with them its result; its likelihood, which passes through code
    that is made for every law there is, is written out here and takes a twentieth of the time.
    """
    rows = np.asarray(values, dtype=np.float64)
    # few batches from one small pool share their largest value
    constant = np.ptp(rows, axis=1) <= 1e-6 * np.abs(rows).max(axis=1)
    with np.errstate(all="ignore"):
        shape, start, scale = np.array(
            [(np.nan, -row[0], 0.0) if same else _scipy_fit(-row) for row, same in zip(rows, constant, strict=True)]
        ).T
    return Fit(end=-start, shape=shape, scale=scale, ks=np.full(len(shape), np.nan))


def _scipy_fit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape, location and scale of ``scipy.stats.weibull_min.fit(x, 1.0)``."""
    from scipy.optimize import fmin
    from scipy.special import xlogy

    # SciPy's price of a value outside of the law
    penalty = 100 * np.log(np.finfo(np.float64).max)

    def unlikely(free: NDArray[np.float64]) -> float:
        shape, location, scale = free
        if shape <= 0 or scale <= 0:
            return np.inf
        z = (x - location) / scale
        inside = z > 0
        if not inside.all():
            z = z[inside]
        logs = np.log(shape) + xlogy(shape - 1, z) - z**shape
        finite = np.isfinite(logs)
        outside = len(x) - np.count_nonzero(finite)
        if outside:
            logs = logs[finite]
        return float(outside * penalty - logs.sum() + len(x) * np.log(scale))

    found: NDArray[np.float64] = fmin(unlikely, [1.0, x.mean() - x.std(), x.std()], disp=0)
    return found


def _weibull(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihood, shape and scale of the two-parameter Weibull law that fits z (..., b) > 0 best; each (...)."""
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
    """P-values of the test that rows of sorted probabilities (n, b) are uniform."""
    from scipy.stats import kstwo

    b = law.shape[1]
    steps = np.arange(b + 1) / b
    distance = np.maximum((steps[1:] - law).max(axis=1), (law - steps[:-1]).max(axis=1))
    p: NDArray[np.float64] = kstwo.sf(distance, b)
    return p
