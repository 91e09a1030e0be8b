"""Correlated images: statistics over units.

Images of one unit (a patient, a person, a video) resemble each other, so they tell less than as many images of
different units. Intervals and tests that ignore this are too narrow. Bootstraps here draw units, not images. Wilson's
interval and those of differences use an effective n: the number of images divided by the design effect (Kish 1965,
Survey Sampling, section 8.2; Rao and Scott 1992, Biometrics 48, 577-585).

Without units every image is its own unit, and all functions give the results for independent images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Units = ArrayLike | None
"""The unit of each image, (n,), of any type; None if every image is its own unit."""

FEW_UNITS = 10
"""With fewer units, methods for clusters are unreliable: the variance between units is estimated from too few."""

_BLOCK = 200_000
"""Indices of resamples held at once: few enough for the cache."""

_EXACT = 20_000
"""Largest total of differences for which the sign-flip test is exact."""


def codes(units: Units, n: int) -> NDArray[np.int64]:
    """Return the unit of each of ``n`` images as a number from 0, in order of first appearance.

    Raises ValueError for another number of units than images.
    """
    if units is None:
        return np.arange(n)
    values = np.asarray(units)
    if values.shape != (n,):
        raise ValueError(f"units has shape {values.shape}; expected ({n},), one unit per image")
    _, first, inverse = np.unique(_sortable(values), return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first, kind="stable")] = np.arange(len(first))
    result: NDArray[np.int64] = order[inverse.reshape(n)]
    return result


def count_units(units: Units) -> int | None:
    """Return the number of units; None without units."""
    return None if units is None else len(np.unique(_sortable(np.asarray(units))))


def _sortable(values: NDArray[Any]) -> NDArray[Any]:
    """Return objects as text, because they may be of types that cannot be sorted together."""
    return values.astype(str) if values.dtype == object else values


def keep(units: Units, mask: ArrayLike) -> NDArray[Any] | None:
    """Return the units of the images that a mask or a list of indices selects; None without units."""
    return None if units is None else np.asarray(units)[np.asarray(mask)]


def resamples(code: NDArray[np.int64], times: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Draw units with replacement; yield the indices of their images, (draws, images) in blocks of several draws.

    The draws depend only on the number of units. If units differ in size, so do draws, and each block holds one.
    """
    n, k = len(code), int(code.max()) + 1
    rows, sizes = np.argsort(code, kind="stable"), np.bincount(code)
    starts = np.cumsum(sizes) - sizes
    equal = bool((sizes == sizes[0]).all())
    done = 0
    while done < times:
        block = min(times - done, max(1, _BLOCK // n))
        drawn = rng.integers(0, k, (block, k))
        done += block
        if equal:
            yield rows.reshape(k, -1)[drawn].reshape(block, -1)
            continue
        for units in drawn:
            size = sizes[units]
            # the position of each image within its unit
            within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            yield rows[np.repeat(starts[units], size) + within][None]


def weights(code: NDArray[np.int64], times: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Draw units with replacement; yield how often each image is drawn, (draws, images) in blocks of several draws."""
    n, k = len(code), int(code.max()) + 1
    done = 0
    while done < times:
        # in blocks, because 1000 resamples of 100,000 images need a gigabyte
        block = min(times - done, max(1, 4_000_000 // n))
        done += block
        yield rng.multinomial(k, np.full(k, 1 / k), size=block).astype(np.float64)[:, code]


def effective_n(values: ArrayLike, units: Units = None) -> float:
    """Return the number of independent images whose mean varies as much as that of ``values`` (n,) over units.

    The variance of the mean is that of a ratio estimator between units, v = k / (k - 1) sum (y_i - m_i mean)^2 / n^2,
    with totals y_i and sizes m_i of k units. The result solves v = variance / (n - 1), so it is exactly n if every
    image is its own unit, and exactly k if every unit has m copies of one image. It is at most n: by chance, units can
    appear to vary less than images.

    If the values are all equal (0 % or 100 %), v is unknown. Images of a unit then count as copies of each other:
    n^2 / sum m_i^2, which is k for units of equal size (Kish 1965, the design effect at an intra-class correlation
    of 1).
    """
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if units is None or not n:
        return float(n)
    code = codes(units, n)
    sizes = np.bincount(code)
    k = len(sizes)
    residuals = data - data.mean()
    variance = float((residuals**2).mean())
    if variance <= 1e-12 * float((data**2).mean()) or k == 1:
        return float(n * n / (sizes.astype(np.float64) ** 2).sum())
    between = k / (k - 1) * float((np.bincount(code, weights=residuals) ** 2).sum()) / n**2
    return min(float(n), 1 + variance / between) if between > 0 else float(n)


class EffectiveCount(NamedTuple):
    """Hits and images after division by the design effect; whole numbers without units."""

    hits: float
    n: float


def effective_count(hits: ArrayLike, units: Units = None) -> EffectiveCount:
    """Return the effective number of True in ``hits`` (n,) and of images (Rao and Scott 1992)."""
    flags = np.asarray(hits, dtype=bool)
    total = int(flags.sum())
    if units is None or not len(flags):
        return EffectiveCount(total, len(flags))
    n = effective_n(flags, units)
    return EffectiveCount(total * n / len(flags), n)


class EffectiveChange(NamedTuple):
    """Images that are correct only for the first or only for the second, and all images, over the design effect."""

    gained: float
    lost: float
    n: float


def effective_change(differences: ArrayLike, units: Units = None) -> EffectiveChange:
    """Return the effective counts of paired differences (n,), each -1, 0 or 1."""
    change = np.asarray(differences, dtype=np.int64)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    if units is None or not len(change):
        return EffectiveChange(gained, lost, len(change))
    n = effective_n(change, units)
    return EffectiveChange(gained * n / len(change), lost * n / len(change), n)


def sign_flip(differences: ArrayLike, units: Units = None) -> float:
    """Return the one-sided p-value of "the first is no better" from paired differences (n,), each -1, 0 or 1.

    Under the hypothesis, each unit's net difference has either sign with probability 1/2; the test is exact over all
    signs. With every image as its own unit this is McNemar's exact test. Beyond 20,000 differences it uses the normal
    approximation sum D / sqrt(sum D^2) (Durkalski et al. 2003, Statistics in Medicine 22, 2417-2428).
    """
    from scipy.special import gammaln, ndtr

    change = np.asarray(differences, dtype=np.int64)
    net = np.rint(np.bincount(codes(units, len(change)), weights=change)).astype(np.int64) if len(change) else change
    sizes, count = np.unique(np.abs(net[net != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    observed = int(net.sum())
    if int((sizes * count).sum()) > _EXACT and len(sizes) > 1:
        return float(ndtr(-observed / np.sqrt((net.astype(np.float64) ** 2).sum())))
    unit = int(np.gcd.reduce(sizes))
    # the distribution of sum (1 + sign) / 2 * size, from the binomial number of positive signs of each size
    chance = np.ones(1)
    for size, times in zip(sizes // unit, count, strict=True):
        j = np.arange(times + 1)
        log_chance = gammaln(times + 1) - gammaln(j + 1) - gammaln(times - j + 1) - times * np.log(2)
        spread = np.zeros(int(size * times) + 1)
        spread[::size] = np.exp(log_chance)
        chance = np.convolve(chance, spread)
    positive = (observed // unit + int((sizes // unit * count).sum())) // 2
    return float(min(1.0, chance[positive:].sum()))


def sign_flip_two_sided(differences: ArrayLike, units: Units = None) -> float:
    """Return the two-sided p-value of ``sign_flip``; 1 if the two agree on every image."""
    change = np.asarray(differences, dtype=np.int64)
    better = change if change.sum() >= 0 else -change
    return min(1.0, 2 * sign_flip(better, units))


def unit_medians(values: ArrayLike, units: Units = None) -> NDArray[np.float64]:
    """Return the median of ``values`` (n,) in each unit, (k,), for rank tests; the values themselves without units."""
    data = np.asarray(values, dtype=np.float64)
    if units is None or not len(data):
        return data
    code = codes(units, len(data))
    ordered, sizes = data[np.lexsort((data, code))], np.bincount(code)
    starts = np.cumsum(sizes) - sizes
    result: NDArray[np.float64] = (ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2
    return result
