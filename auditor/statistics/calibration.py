"""Calibration errors with intervals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.statistics.bootstrap import RESAMPLES, bootstrap
from auditor.statistics.cluster import Units, codes, effective_count, effective_n, keep
from auditor.statistics.intervals import Interval, wilson


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15) -> float:
    """Return the expected calibration error with bins of equal mass; confidences and correctness (n,).

    Mean over bins of |accuracy - confidence|, weighted by size (Guo et al. 2017, arXiv:1706.04599; equal mass after
    Nixon et al. 2019, arXiv:1904.01685). Positive even for a perfect model; see ``calibration_error_debiased``.
    """
    pairs = np.stack([np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)], axis=-1)
    return float(_calibration_errors(pairs[None], bins)[0])


def _calibration_errors(pairs: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Return the calibration errors (b,) of samples (b, n, 2) of confidence and correctness."""
    n = pairs.shape[1]
    order = np.argsort(pairs[..., 0], axis=1, kind="stable")
    gaps = np.take_along_axis(pairs[..., 0] - pairs[..., 1], order, axis=1)
    parts = np.array_split(np.arange(n), min(bins, n))
    result: NDArray[np.float64] = np.sum([abs(gaps[:, p[0] : p[-1] + 1].sum(axis=1)) for p in parts], axis=0) / n
    return result


def calibration_interval(
    confidence: NDArray[np.float64],
    correct: NDArray[Any],
    bins: int = 15,
    *,
    resamples: int = RESAMPLES,
    units: Units = None,
) -> Interval:
    """Return ``calibration_error`` with its bootstrap interval, over ``units`` (n,) if given.

    Resampling adds variation, which raises the percentiles: the interval is extended if it does not contain the value.
    The error is at least the difference of mean confidence and accuracy, so the upper end is not below that of this
    difference by Wilson's interval; otherwise a model that is right on every image would have an interval of one point.
    """
    pairs = np.column_stack([confidence, correct])
    errors = partial(_calibration_errors, bins=bins)
    value, low, high = bootstrap(pairs, errors, resamples=resamples, units=units)
    if value is None or low is None or high is None:
        return Interval(value, low, high)
    accuracy = wilson(*effective_count(correct, units))
    mean = float(np.mean(confidence))
    apart = max(abs(mean - end) for end in (accuracy.low, accuracy.high) if end is not None)
    return Interval(value, min(low, value), max(high, value, apart))


def debiased_interval(
    confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15, *, units: Units = None
) -> Interval:
    """Return ``calibration_error_debiased`` with its bootstrap interval, over ``units`` (n,) if given."""
    # a unit that is drawn twice counts as two: in a draw, each begins at its first image
    first = np.zeros(len(confidence))
    first[np.unique(codes(units, len(confidence)), return_index=True)[1]] = 1
    triples = np.column_stack([confidence, correct, first]).astype(np.float64)

    def errors(draws: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array(
            [error(draw[:, 0], draw[:, 1], None if units is None else draw[:, 2].cumsum()) for draw in draws]
        )

    def error(confidence: NDArray[np.float64], correct: NDArray[Any], units: Units) -> float:
        return calibration_error_debiased(confidence, correct, bins, units=units)

    value, low, high = bootstrap(triples, errors, resamples=200, units=units)
    # the images as given need not be sorted by unit
    value = None if value is None else error(confidence, correct, units)
    if value is None or low is None or high is None:
        return Interval(value, low, high)
    return Interval(value, min(low, value), max(high, value))


def calibration_error_debiased(
    confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15, *, units: Units = None
) -> float:
    """Return the root mean square calibration error with its bias by chance removed.

    Kumar, Liang and Ma 2019, arXiv:1909.10155, definition 5.1; bins of equal mass, 0 if chance explains all of it. The
    bias is the variance of a bin's accuracy; with ``units`` (n,) that between units.
    """
    parts = [p for p in np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence))) if len(p) > 1]
    total = sum(len(p) for p in parts)
    if not total:
        return 0.0

    def square(part: NDArray[np.int64]) -> float:
        right = correct[part]
        chance = right.mean() * (1 - right.mean())
        n = effective_n(right, keep(units, part))
        return float((confidence[part].mean() - right.mean()) ** 2 - chance / max(n - 1, 1))

    return float(max(sum(len(p) * square(p) for p in parts) / total, 0.0) ** 0.5)
