"""The closed set of evidence: curve, table, image grid, heat map, scatter plot, text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from auditor.findings.metric import Scalar

Cell = Scalar | Mapping[str, float | None]
"""A table cell: a scalar, or ``{"value", "low", "high"}`` for a number with its interval."""


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
    """One point, with the interval of ``y`` if there is one."""

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
    """One cell of an image grid: a file of the run folder and its caption."""

    file: str | None
    """Path inside the run folder, for example ``evidence/ab12.png``; None leaves the cell empty."""
    caption: str = ""
    alt: str = ""
    heat: Sequence[Sequence[float]] | None = None
    """A coarse map (rows, columns) laid over the picture; positive supports the class, negative opposes it."""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A row of pictures with a label."""

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
    """A matrix of numbers as colours, for example a confusion matrix."""

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
