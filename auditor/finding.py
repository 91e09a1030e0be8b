"""What a reviewer reads: metrics, findings and their evidence.

A finding is data. Evidence is a closed set of kinds (curve, table, image grid, heat map, scatter, text), so every
renderer knows all of it and no plugin carries HTML. ``plain`` turns any of it into what audit.json holds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Area = Literal["performance", "attacks", "corruptions", "metrics", "bias", "explanations", "sanity"]
AREAS: tuple[Area, ...] = ("performance", "attacks", "corruptions", "metrics", "bias", "explanations", "sanity")

Status = Literal["pass", "fail", "inconclusive", "informative", "not-applicable", "error"]
"""How a probe ended. Only ``pass`` and ``fail`` judge; none of the others ever counts as passed."""

Severity = Literal["none", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("none", "low", "medium", "high", "critical")

Scalar = float | int | str | bool | None
Cell = Scalar | Mapping[str, float | None]
"""A table cell: a scalar, or ``{"value", "low", "high"}`` for a number with its interval."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number with what it needs to be believed: how many images, which interval, which unit, measured at what."""

    name: str
    value: float | None
    """None when there was nothing to measure; never 0 for "no data"."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval."""
    n: int
    unit: str = "fraction"
    """One of "fraction", "l2", "linf", "l1", "dB", "s", "count", "nats", "1"."""
    at: Mapping[str, Scalar] = field(default_factory=dict)
    """What it was measured at, for example ``{"norm": "linf", "epsilon": 0.0314}``."""

    def cell(self) -> Mapping[str, float | None]:
        """The number and its interval as one table cell."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a curve or a scatter plot."""

    label: str
    unit: str = "1"
    scale: Literal["linear", "log", "symlog"] = "linear"
    format: Literal["number", "percent", "n/255"] = "number"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point, with the interval of ``y`` where there is one."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """A named line of a curve, or a named cloud of a scatter plot."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Lines with interval bands."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    caption: str = ""
    kind: Literal["curve"] = "curve"


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Clouds of points."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    caption: str = ""
    kind: Literal["scatter"] = "scatter"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns. ``formats`` holds one of "text", "number", "percent", "n/255", "count" per column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    formats: Sequence[Literal["text", "number", "percent", "n/255", "count"]] = ()
    caption: str = ""
    kind: Literal["table"] = "table"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One cell of an image grid: a file of the run folder, and what to say under it."""

    file: str | None
    """Path inside the run folder, for example ``evidence/ab12.png``; None leaves the cell empty."""
    caption: str = ""
    alt: str = ""
    heat: Sequence[Sequence[float]] | None = None
    """A coarse map (rows, columns) laid over the picture; positive speaks for the class, negative against it."""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A row of pictures with a label in front."""

    label: str
    cells: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class ImageGrid:
    """Pictures in rows under named columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[GridRow]
    caption: str = ""
    kind: Literal["image-grid"] = "image-grid"


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A matrix of numbers as colours, for example a confusion matrix or the mean map of a class."""

    title: str
    values: Sequence[Sequence[float | None]]
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    row_title: str = ""
    column_title: str = ""
    format: Literal["number", "percent", "count"] = "number"
    diverging: bool = False
    """True when zero is the middle of the colour scale."""
    caption: str = ""
    kind: Literal["heat-map"] = "heat-map"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph of plain text."""

    text: str
    title: str = ""
    kind: Literal["text"] = "text"


Evidence = Curve | Table | ImageGrid | HeatMap | Scatter | Text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim with its number and its evidence."""

    id: str
    """Unique within the audit and the same from run to run: ``<probe id>/<noun>``."""
    title: str
    statement: str
    """One sentence with the number, its interval and n."""
    severity: Severity = "none"
    """Set by the policy, from the interval of ``metric``."""
    metric: Metric | None = None
    evidence: Sequence[Evidence] = ()


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who attacks, knowing what, allowed what (Carlini et al. 2019, arXiv:1902.06705, section 2.2)."""

    goal: str
    """For example "untargeted misclassification"."""
    knowledge: Literal["white-box", "black-box", "none"]
    norm: str
    """For example "linf", "l2", "none"."""
    budget: str
    """In words, in pixel units: "epsilon 0 to 32/255", "a block of 25 % of the side"."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a probe concludes from its records: the first metric is its headline."""

    metrics: Sequence[Metric] = ()
    findings: Sequence[Finding] = ()
    inconclusive: str = ""
    """Why nothing may be concluded (an attack that did not work, too few images); empty when something may be."""


def percent(metric: Metric) -> str:
    """A proportion as text: ``61.0 % [54.1, 67.5]``, or ``not measured``."""
    if metric.value is None:
        return "not measured"
    text = f"{100 * metric.value:.1f} %"
    if metric.low is None or metric.high is None:
        return text
    return f"{text} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


def n_of_255(epsilon: float) -> str:
    """An L-infinity size as n/255: ``8/255``, ``0.5/255``."""
    return f"{epsilon * 255:.3g}/255"


def plain(value: Any) -> Any:
    """The JSON form of findings and metrics: dataclasses to objects, non-finite numbers to null, arrays to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        # six digits: what differs beyond them is the runtime's rounding, not the model
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no place in audit.json")
