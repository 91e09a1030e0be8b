"""Levels: how strongly to perturb, and how to name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from auditor.findings.evidence import Axis, Point
from auditor.findings.formatting import norm_name
from auditor.findings.metric import Metric, n_of_255

if TYPE_CHECKING:
    pass


Level = Mapping[str, Any]
"""How strongly to perturb: any texts and exactly one number, for example ``{"norm": "linf", "epsilon": 0.03}`` or
``{"noise": "gaussian", "snr": 20.0}``. The texts name the line of the curve, the number is its x."""


def number(level: Level) -> tuple[str, float]:
    """The one number of a level, with its name."""
    return next((key, float(value)) for key, value in level.items() if isinstance(value, int | float))


def line_name(level: Level) -> str:
    """The texts of a level, which name its line in a curve."""
    texts = [norm_name(str(v)) if k == "norm" else str(v) for k, v in level.items() if isinstance(v, str)]
    return " ".join(texts)


def level_name(level: Level) -> str:
    """The number of a level as text with its unit."""
    key, value = number(level)
    if key == "snr":
        return f"SNR {value:g} dB"
    if key == "epsilon":
        return f"epsilon {size(str(level.get('norm', 'linf')), value)}"
    if key == "sigma":
        return f"sigma {n_of_255(value)}"
    return f"{key.replace('_', ' ')} {value:g}"


def size(norm: str, epsilon: float) -> str:
    """An epsilon as text: n/255 for L-infinity, a plain number for the others."""
    return n_of_255(epsilon) if norm == "linf" else f"{epsilon:.3g}"


def epsilon_axis(norm: str) -> Axis:
    """The x axis of an accuracy-versus-epsilon curve."""
    return Axis(
        label=f"epsilon ({norm_name(norm)})", unit=norm, scale="symlog" if norm == "linf" else "linear",
        format="n/255" if norm == "linf" else "number", low=0,
    )  # fmt: skip


def number_axis(key: str) -> Axis:
    """The x axis for a level's number."""
    if key == "snr":
        return Axis(label="signal-to-noise ratio (dB)", unit="dB")
    if key in {"epsilon", "sigma"}:
        return Axis(label=key, unit="linf", format="n/255", low=0)
    return Axis(label=key.replace("_", " "))


def metric_point(metric: Metric) -> Point:
    """A metric as a point of a curve over its level."""
    return Point(x=number(metric.at)[1], y=metric.value, low=metric.low, high=metric.high, n=metric.n)
