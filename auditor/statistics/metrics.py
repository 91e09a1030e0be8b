"""Metrics with intervals: proportion, median, mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from auditor.findings.metric import Metric, Scalar
from auditor.statistics.bootstrap import BOOTSTRAP_SEED, RESAMPLES, bootstrap
from auditor.statistics.intervals import wilson


def proportion(name: str, hits: ArrayLike, *, at: Mapping[str, Scalar] | None = None, unit: str = "fraction") -> Metric:
    """Return the share of True in ``hits`` as a metric with Wilson's interval."""
    flags = np.asarray(hits, dtype=bool)
    value, low, high = wilson(int(flags.sum()), len(flags))
    return Metric(name=name, value=value, low=low, high=high, n=len(flags), unit=unit, at=at or {})


def median(name: str, values: ArrayLike, *, unit: str, at: Mapping[str, Scalar] | None = None) -> Metric:
    """Return the median as a metric with a bootstrap interval; infinite values (no adversarial image found) count.

    The median is infinite if that holds for half of the images; audit.json writes it as null.
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[~np.isnan(data)]
    if not len(data):
        return Metric(name=name, value=None, n=0, unit=unit, at=at or {})
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    draws = np.median(data[rng.integers(0, len(data), (RESAMPLES, len(data)))], axis=1)
    # "lower"/"higher" avoid interpolation, which would turn infinities into NaN
    low = float(np.quantile(draws, 0.025, method="lower"))
    high = float(np.quantile(draws, 0.975, method="higher"))
    return Metric(name=name, value=float(np.median(data)), low=low, high=high, n=len(data), unit=unit, at=at or {})


def mean(name: str, values: ArrayLike, *, unit: str, at: Mapping[str, Scalar] | None = None) -> Metric:
    """Return the mean as a metric with a bootstrap interval."""
    data = np.asarray(values, dtype=np.float64)
    value, low, high = bootstrap(data)
    return Metric(name=name, value=value, low=low, high=high, n=int(np.isfinite(data).sum()), unit=unit, at=at or {})
