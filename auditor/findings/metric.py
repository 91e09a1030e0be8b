"""A metric: one number with its interval, n and unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Scalar = float | int | str | bool | None

Unit = Literal["fraction", "l2", "linf", "l1", "dB", "s", "count", "nats", "1"]
Better = Literal["higher", "lower", "neither"]
Bound = Literal["upper", "lower", "estimate", "exact", "measured"]


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What a metric means, declared by the probe that measures it.

    Reports, comparisons and policies read only this; nothing is inferred from the name.
    """

    name: str
    """The name in audit.json: lower-case words joined by underscores."""
    label: str
    """The name for people: "Robust accuracy"."""
    better: Better
    """The direction that is better for the model; "neither" if no value is better than another."""
    unit: Unit | Literal["norm"] = "fraction"
    """Unit of the value; "norm" if the unit is the norm that ``Metric.at`` names."""
    bound: Bound = "measured"
    """How the value relates to the true one: "upper" (an attack can only lower it), "lower" (a certificate), "estimate"
    (an approximation without a guarantee), "exact" (computed in closed form), "measured" (a sample statistic)."""
    difference: bool = False
    """True for a difference of two fractions, written in percentage points."""
    monotone: str = ""
    """The key of ``Metric.at`` whose increase can only make the value worse (an epsilon); a policy then concludes from
    one size to another. Empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured number with its interval, sample size, unit and the setting it was measured at."""

    name: str
    value: float | None
    """None if nothing was measured; never 0 for "no data"."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval."""
    n: int
    unit: str = "fraction"
    """A ``Unit``."""
    at: Mapping[str, Scalar] = field(default_factory=dict)
    """The setting of the measurement, for example ``{"norm": "linf", "epsilon": 0.0314}``."""
    clean: float | None = None
    """For an accuracy on perturbed images: the accuracy on the same images without the perturbation. Policies judge the
    loss from it, reports name large losses."""

    units: int | None = None
    """Number of units (patients, persons, videos) that the images belong to, if the interval is over units."""

    def lost_from(self, clean: float | None) -> Metric:
        """Return the metric with the accuracy on the same images without the perturbation."""
        return replace(self, clean=clean)

    def cell(self) -> Mapping[str, float | None]:
        """Return the number and its interval as one table cell."""
        return {"value": self.value, "low": self.low, "high": self.high}


def n_of_255(epsilon: float) -> str:
    """Format an L-infinity size as n/255: ``8/255``, ``0.5/255``."""
    return f"{epsilon * 255:.3g}/255"
