"""Metrics with intervals: proportion, median, mean.

``units`` names the unit of each image (n,), such as its patient: the interval is then over units
(``auditor/statistics/cluster.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from auditor.findings.metric import Metric, Scalar
from auditor.statistics.bootstrap import BOOTSTRAP_SEED, RESAMPLES, bootstrap
from auditor.statistics.cluster import Units, codes, count_units, effective_count, effective_n, keep, resamples
from auditor.statistics.intervals import wilson


def proportion(
    name: str,
    hits: ArrayLike,
    *,
    at: Mapping[str, Scalar] | None = None,
    unit: str = "fraction",
    units: Units = None,
) -> Metric:
    """Return the share of True in ``hits`` as a metric with Wilson's interval, over units by the effective n."""
    flags = np.asarray(hits, dtype=bool)
    value, low, high = wilson(*effective_count(flags, units))
    return Metric(
        name=name,
        value=float(flags.mean()) if len(flags) else value,
        low=low,
        high=high,
        n=len(flags),
        unit=unit,
        at=at or {},
        units=count_units(units),
    )


def median(
    name: str, values: ArrayLike, *, unit: str, at: Mapping[str, Scalar] | None = None, units: Units = None
) -> Metric:
    """Return the median as a metric with a bootstrap interval; infinite values (no adversarial image found) count.

    The median is infinite if that holds for half of the images; audit.json writes it as null.
    """
    data = np.asarray(values, dtype=np.float64)
    units, data = keep(units, ~np.isnan(data)), data[~np.isnan(data)]
    found = Metric(name=name, value=None, n=len(data), unit=unit, at=at or {}, units=count_units(units))
    if not len(data):
        return found
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = resamples(codes(units, len(data)), RESAMPLES, rng)
    draws = np.concatenate([np.median(data[rows], axis=1) for rows in drawn])
    # "lower"/"higher" avoid interpolation, which would turn infinities into NaN
    low = float(np.quantile(draws, 0.025, method="lower"))
    high = float(np.quantile(draws, 0.975, method="higher"))
    if found.units == 1:
        return replace(found, value=float(np.median(data)))
    return replace(found, value=float(np.median(data)), low=low, high=high)


def mean(
    name: str,
    values: ArrayLike,
    *,
    unit: str,
    at: Mapping[str, Scalar] | None = None,
    units: Units = None,
    share: bool = False,
) -> Metric:
    """Return the mean as a metric with a bootstrap interval.

    Args:
        name: Name of the metric.
        values: One number per image, (n,).
        unit: Unit of the metric.
        at: What it is measured at.
        units: Unit of each image, (n,).
        share: Whether the values are shares from 0 to 1. If all are equal, the bootstrap's interval is one point, and
            Wilson's replaces it: of all values from 0 to 1 with a given mean, 0 and 1 vary most.
    """
    data = np.asarray(values, dtype=np.float64)
    units, data = keep(units, np.isfinite(data)), data[np.isfinite(data)]
    value, low, high = bootstrap(data, units=units)
    if share and value is not None and low == high:
        n = effective_n(data, units)
        value, low, high = wilson(value * n, n)
    return Metric(
        name=name, value=value, low=low, high=high, n=len(data), unit=unit, at=at or {}, units=count_units(units)
    )
