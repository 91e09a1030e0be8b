"""Curves and scatter plots as inline SVG; the legend is HTML, so that long names wrap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from auditor.findings import formatting
from auditor.findings.record import AxisRecord, PlotRecord, PointRecord, SeriesRecord
from auditor.report.scales import Scale, scale, ticks
from auditor.report.svg import INK, SOFT, strokes, svg, text, tooltip

WIDTH, HEIGHT = 680, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 30, 34, 50
SQUARE = 300
"""Side of the plotting area, in pixels, where both axes have the same fixed range, as in a reliability diagram."""

COLOURS = (
    "#0b5394",
    "#c2500a",
    "#1a7a4c",
    "#8a3ffc",
    "#b3261e",
    "#0f7c8a",
    "#8d6400",
    "#a2195b",
    "#4a5a6a",
    "#5b7f12",
    "#6d4c41",
    "#3f51b5",
)
DASHES = ("", "7 3", "2 3", "9 3 2 3")

MAX_MARKED_POINTS = 40
"""A line with more points has tooltips but no marks."""

MAX_TOOLTIPS = 200
"""Tooltips of a line without marks."""

MAX_POINTS = 1500
"""Points of a scatter plot that are drawn; a note states the total."""


@dataclass(frozen=True)
class _Frame:
    """A plot with its two scales."""

    chart: PlotRecord
    x: Scale
    y: Scale
    step: int
    """Every how many points one is drawn."""

    @property
    def right(self) -> float:
        return self.x.end

    @property
    def base(self) -> float:
        return self.y.start

    def position(self, point: PointRecord, y: float) -> tuple[float, float]:
        return self.x(point["x"]), self.y(y)


def plot(chart: PlotRecord) -> Markup:
    """Draw a curve or a scatter plot, with a legend if it has several series."""
    series = chart["series"]
    points = [point for line in series for point in line["points"]]
    xs = [point["x"] for point in points]
    ys = [y for point in points for y in (point["y"], point["low"], point["high"]) if y is not None]
    if not ys:
        return Markup('<p class="empty">Nothing was measured for this figure.</p>')
    width, height = _size(chart)
    frame = _Frame(
        chart,
        x=scale(chart["x"], xs, LEFT, width - RIGHT),
        y=scale(chart["y"], ys, height - BOTTOM, TOP),
        step=max(1, math.ceil(len(points) / MAX_POINTS)),
    )
    parts = [*_axes(frame, xs, ys), *_series(frame)]
    drawing = svg(width, height, describe(chart), parts)
    if width < WIDTH:
        drawing = Markup('<div class="square">{}</div>').format(drawing)
    drawing += _legend(series, chart["kind"], chart["title"])
    if frame.step == 1:
        return drawing
    note = Markup('<p class="note">Every {} of {} points is drawn.</p>')
    return drawing + note.format(_ordinal(frame.step), len(points))


def _size(chart: PlotRecord) -> tuple[float, float]:
    """Return width and height; equal ranges have equal scales, so that the diagonal is at 45 degrees."""
    ranges = [(axis["low"], axis["high"]) for axis in (chart["x"], chart["y"])]
    if ranges[0] == ranges[1] and None not in ranges[0]:
        return LEFT + SQUARE + RIGHT, TOP + SQUARE + BOTTOM
    return WIDTH, HEIGHT


def _series(frame: _Frame) -> Iterator[Markup]:
    series = frame.chart["series"]
    if frame.chart["kind"] == "curve":
        yield from (_band(line, index, frame) for index, line in enumerate(series))
    for index, line in enumerate(series):
        if frame.chart["kind"] == "curve":
            yield _line(line, index, frame)
        yield from _marks(line, index, frame)


def describe(chart: PlotRecord) -> str:
    """Describe a figure in words: the ends of each line, the size of each cloud."""
    x, y = chart["x"], chart["y"]
    lines = [_describe_series(line, chart) for line in chart["series"]]
    return formatting.clean(" ".join([f"{chart['title']}. {y['label']} against {x['label']}.", *lines]))


def _describe_series(line: SeriesRecord, chart: PlotRecord) -> str:
    known = [point for point in line["points"] if point["y"] is not None]
    if not known:
        return f"{line['name']}: no data."
    if chart["kind"] == "scatter":
        return f"{line['name']}: {len(known)} points."
    x, y = chart["x"]["format"], chart["y"]["format"]
    first, last = (
        f"{formatting.formatted(point['y'], y)} at {formatting.formatted(point['x'], x)}"
        for point in (known[0], known[-1])
    )
    return f"{line['name']}: {first}" + (f" to {last}." if len(known) > 1 else ".")


def _axes(frame: _Frame, xs: Sequence[float], ys: Sequence[float]) -> Iterator[Markup]:
    """Draw grid, ticks and titles, and a break if a logarithmic axis shows 0."""
    x_axis, y_axis = frame.chart["x"], frame.chart["y"]
    base, right = frame.base, frame.right
    y_ticks = ticks(y_axis, frame.y, ys, lambda _: 18)
    yield strokes((LEFT, frame.y(tick), right, frame.y(tick)) for tick in y_ticks)
    for tick in y_ticks:
        yield text(LEFT - 8, frame.y(tick) + 4, _tick_label(y_axis, tick), "end")
    x_ticks = ticks(x_axis, frame.x, xs, lambda tick: 6.5 * len(_tick_label(x_axis, tick)) + 6)
    marks = [(frame.x(tick), base, frame.x(tick), base + 5) for tick in x_ticks]
    yield strokes([(LEFT, base, right, base), *marks], colour=SOFT, kind="axis")
    for tick in x_ticks:
        yield text(frame.x(tick), base + 19, _tick_label(x_axis, tick))
    if frame.x.zero_apart:
        yield _axis_break(LEFT + 0.05 * (right - LEFT), base)
    yield text((LEFT + right) / 2, base + BOTTOM - 8, _axis_title(x_axis), colour=INK)
    yield text(8, 16, _axis_title(y_axis), "start", INK)


def _tick_label(axis: AxisRecord, value: float) -> str:
    """Format a tick; whole percentages have no decimals."""
    if axis["format"] == "percent" and abs(100 * value - round(100 * value)) < 1e-6:
        return f"{round(100 * value)} %"
    return formatting.formatted(value, axis["format"])


def _axis_title(axis: AxisRecord) -> str:
    """Return the label with its unit, unless the tick labels contain the unit."""
    unit, label = axis["unit"], axis["label"]
    known = axis["format"] != "number" or unit in ("1", "fraction", "count", "linf") or unit.lower() in label.lower()
    suffix = {"log": " (log scale)", "symlog": " (symmetric log scale)"}.get(axis["scale"], "")
    return label + ("" if known else f" ({formatting.norm_name(unit)})") + suffix


def _axis_break(x: float, y: float) -> Markup:
    """Draw two slanted strokes, the sign of an axis break."""
    gap = Markup('<rect x="{:.1f}" y="{:.1f}" width="6" height="4" fill="#ffffff" class="paper"/>').format(x - 3, y - 2)
    return gap + strokes([(x + side - 2, y + 5, x + side + 2, y - 5) for side in (-3, 3)], colour=SOFT, kind="axis")


def _stretches(points: Sequence[PointRecord], *keys: Literal["y", "low", "high"]) -> list[list[PointRecord]]:
    """Return the stretches of points, in the order of x, in which all of these values are known."""
    ordered = sorted(points, key=lambda point: float(point["x"]))
    grouped = itertools.groupby(ordered, key=lambda point: all(point[key] is not None for key in keys))
    return [list(stretch) for known, stretch in grouped if known]


def _corners(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _band(line: SeriesRecord, index: int, frame: _Frame) -> Markup:
    """Draw the interval of a line; fainter if there are many lines."""
    opacity = 0.16 if len(frame.chart["series"]) <= 3 else 0.08
    shape = Markup('<polygon points="{}" fill="{}" fill-opacity="{}" class="band s{}"/>')
    shapes = []
    for stretch in _stretches(line["points"], "low", "high"):
        upper = [frame.position(point, point["high"]) for point in stretch if point["high"] is not None]
        lower = [frame.position(point, point["low"]) for point in reversed(stretch) if point["low"] is not None]
        if len(stretch) > 1:
            shapes.append(shape.format(_corners([*upper, *lower]), _colour(index), opacity, index % len(COLOURS)))
    return Markup("").join(shapes)


def _line(line: SeriesRecord, index: int, frame: _Frame) -> Markup:
    """Draw a line, interrupted at missing values."""
    shape = Markup(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-linejoin="round"{} class="line s{}"/>'
    )
    shapes = []
    for stretch in _stretches(line["points"], "y"):
        corners = [frame.position(point, point["y"]) for point in stretch if point["y"] is not None]
        if len(corners) > 1:
            shapes.append(shape.format(_corners(corners), _colour(index), _dash(index), index % len(COLOURS)))
    return Markup("").join(shapes)


def _marks(line: SeriesRecord, index: int, frame: _Frame) -> Iterator[Markup]:
    """Draw a mark with a tooltip for each point, and a whisker if no band can show the interval."""
    scatter = frame.chart["kind"] == "scatter"
    if not scatter and len(line["points"]) > MAX_MARKED_POINTS:
        yield from _tooltips(line, index, frame)
        return
    lone = scatter or len(line["points"]) == 1
    for point in line["points"][:: frame.step]:
        if point["y"] is None:
            continue
        x, y = frame.position(point, point["y"])
        mark = _mark(x, y, index, 2.6 if scatter else 3.4, 0.7 if scatter else 1)
        if lone and point["low"] is not None and point["high"] is not None:
            mark = _whisker(x, frame.y(point["low"]), frame.y(point["high"]), index) + mark
        yield mark if frame.step > 1 else tooltip(index, _point_text(frame.chart, line, point), mark)


def _tooltips(line: SeriesRecord, index: int, frame: _Frame) -> Iterator[Markup]:
    """Place invisible tooltips along a line without marks."""
    circle = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="none" pointer-events="all"/>')
    for point in line["points"][:: math.ceil(len(line["points"]) / MAX_TOOLTIPS)]:
        if point["y"] is not None:
            place = circle.format(*frame.position(point, point["y"]))
            yield tooltip(index, _point_text(frame.chart, line, point), place)


def _whisker(x: float, low: float, high: float, index: int) -> Markup:
    return Markup(
        '<line x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}" stroke="{3}" stroke-width="1.5" class="line s{4}"/>'
    ).format(x, low, high, _colour(index), index % len(COLOURS))


def _point_text(chart: PlotRecord, line: SeriesRecord, point: PointRecord) -> str:
    """Format a point with its interval and n."""
    number = formatting.cell({"value": point["y"], "low": point["low"], "high": point["high"]}, chart["y"]["format"])
    n = f", n = {point['n']}" if point["n"] is not None else ""
    return formatting.clean(f"{line['name']}: {number} at {formatting.formatted(point['x'], chart['x']['format'])}{n}")


def _mark(x: float, y: float, index: int, size: float, opacity: float = 1.0) -> Markup:
    """Draw a circle, square, triangle or diamond; the shape distinguishes series without colour."""
    shapes = (
        f"M{x - size:.1f},{y:.1f}a{size},{size} 0 1 0 {2 * size},0a{size},{size} 0 1 0 {-2 * size},0z",
        f"M{x - size:.1f},{y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}z",
        f"M{x:.1f},{y - 1.2 * size:.1f}l{1.2 * size:.2f},{2.1 * size:.2f}h{-2.4 * size:.2f}z",
        f"M{x:.1f},{y - 1.3 * size:.1f}l{1.3 * size:.2f},{1.3 * size:.2f}l{-1.3 * size:.2f},{1.3 * size:.2f}"
        f"l{-1.3 * size:.2f},{-1.3 * size:.2f}z",
    )
    transparency = Markup(' fill-opacity="{}"').format(opacity) if opacity < 1 else ""
    return Markup('<path d="{}" fill="{}"{} class="mark s{}"/>').format(
        shapes[index % len(shapes)], _colour(index), transparency, index % len(COLOURS)
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> Markup:
    pattern = DASHES[index % len(DASHES)]
    return Markup(' stroke-dasharray="{}"').format(pattern) if pattern else Markup("")


def _legend(series: Sequence[SeriesRecord], kind: str, title: str) -> Markup:
    """List the series with their line and mark; a single series that the title names needs no legend."""
    if len(series) == 1 and series[0]["name"].casefold() in title.casefold():
        return Markup("")
    item = Markup('<li>{}<span dir="auto">{}</span></li>')
    items = [item.format(_swatch(index, kind), formatting.clean(line["name"])) for index, line in enumerate(series)]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _swatch(index: int, kind: str) -> Markup:
    stroke = Markup('<line x1="0" y1="6" x2="30" y2="6" stroke="{}" stroke-width="2"{} class="line s{}"/>').format(
        _colour(index), _dash(index), index % len(COLOURS)
    )
    return Markup(
        '<svg class="swatch" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 30 12" width="30" height="12" '
        'aria-hidden="true"><title>Key {}</title>{}{}</svg>'
    ).format(index + 1, stroke if kind == "curve" else "", _mark(15, 6, index, 3.4))


def _ordinal(count: int) -> str:
    return {2: "second", 3: "third"}.get(count, f"{count}th")
