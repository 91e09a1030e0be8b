"""Axes and points of the curves that robustness probes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from auditor.findings.evidence import Axis, Point
from auditor.findings.formatting import norm_name
from auditor.findings.metric import Metric
from auditor.probes.levels import number, size_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.statistics.cluster import Units


def epsilon_axis(norm: str) -> Axis:
    """Return the x axis of an accuracy-versus-epsilon curve."""
    scale: Any = "symlog" if norm == "linf" else "linear"
    return Axis(label=f"epsilon ({norm_name(norm)})", unit=norm, scale=scale, format=size_format(norm), low=0)


def number_axis(key: str) -> Axis:
    """Return the x axis for a level's number."""
    if key == "snr":
        return Axis(label="signal-to-noise ratio (dB)", unit="dB")
    if key in {"epsilon", "sigma"}:
        return Axis(label=key, unit="linf", format="n/255", low=0)
    return Axis(label=key.replace("_", " "))


def accuracy_axis(label: str) -> Axis:
    """Return the y axis of an accuracy, in percent."""
    return Axis(label=label, format="percent", low=0, high=1, unit="fraction")


def metric_point(metric: Metric, x: float | None = None) -> Point:
    """Return a metric as a point at ``x``, by default at its level's number."""
    x = number(metric.at)[1] if x is None else x
    return Point(x=x, y=metric.value, low=metric.low, high=metric.high, n=metric.n)


def accuracy_points(
    sizes: Iterable[float], correct_at: Callable[[float], NDArray[Any]], units: Units = None
) -> list[Point]:
    """Return the share of correct images at each size, with Wilson's interval.

    Args:
        sizes: x coordinates.
        correct_at: Returns whether each image is correct at a size, (n,) booleans.
        units: The unit of each image, (n,).
    """
    from auditor import statistics

    points = []
    for epsilon in sizes:
        correct = correct_at(epsilon)
        value, low, high = statistics.wilson(*statistics.effective_count(correct, units))
        points.append(Point(x=float(epsilon), y=value, low=low, high=high, n=len(correct)))
    return points
