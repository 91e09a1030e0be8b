"""Calibration errors with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.statistics.bootstrap import RESAMPLES, bootstrap
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
    confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15, *, resamples: int = RESAMPLES
) -> Interval:
    """Return ``calibration_error`` with its bootstrap interval.

    Resampling adds variation, which raises the percentiles: the interval is extended if it does not contain the value.
    The error is at least the difference of mean confidence and accuracy, so the upper end is not below that of this
    difference by Wilson's interval; otherwise a model that is right on every image would have an interval of one point.
    """
    pairs = np.column_stack([confidence, correct])
    value, low, high = bootstrap(pairs, lambda draws: _calibration_errors(draws, bins), resamples=resamples)
    if value is None or low is None or high is None:
        return Interval(value, low, high)
    accuracy = wilson(int(np.sum(correct)), len(pairs))
    mean = float(np.mean(confidence))
    apart = max(abs(mean - end) for end in (accuracy.low, accuracy.high) if end is not None)
    return Interval(value, min(low, value), max(high, value, apart))


def debiased_interval(confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15) -> Interval:
    """Return ``calibration_error_debiased`` with its bootstrap interval."""
    pairs = np.column_stack([confidence, correct]).astype(np.float64)

    def errors(draws: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([calibration_error_debiased(draw[:, 0], draw[:, 1], bins) for draw in draws])

    value, low, high = bootstrap(pairs, errors, resamples=200)
    if value is None or low is None or high is None:
        return Interval(value, low, high)
    return Interval(value, min(low, value), max(high, value))


def calibration_error_debiased(confidence: NDArray[np.float64], correct: NDArray[Any], bins: int = 15) -> float:
    """Return the root mean square calibration error with its bias by chance removed.

    Kumar, Liang and Ma 2019, arXiv:1909.10155, definition 5.1; bins of equal mass, 0 if chance explains all of it.
    """
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
