"""Curves, scatter plots and heat maps as inline SVG, and heat overlays as tiny PNGs.

Every mark carries its light colours as attributes, because WeasyPrint does not apply a page's CSS inside an SVG; the
classes beside them let the style sheet recolour everything in a dark browser. The legend is HTML, so that a name of
any length wraps instead of being cut.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from PIL import Image

from auditor.findings import formatting

Record = Mapping[str, Any]
RGB = tuple[int, int, int]

WIDTH, HEIGHT = 680, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 30, 34, 50
FONT = "Inter, Segoe UI, Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"

INK, SOFT, LINE = "#16202c", "#52606d", "#dde3e9"
COLOURS = (
    "#0b5394", "#c2500a", "#1a7a4c", "#8a3ffc", "#b3261e", "#0f7c8a",
    "#8d6400", "#a2195b", "#4a5a6a", "#5b7f12", "#6d4c41", "#3f51b5",
)  # fmt: skip
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MOST_MARKS = 40
"""Points of a line that get marks; a longer line stands alone, though it says its numbers when pointed at."""
MOST_SPOTS = 200
"""Points of a line without marks that can be pointed at."""
MOST_POINTS = 1500
"""Points of a scatter plot that are drawn; the caption says when there are more."""

SEQUENTIAL = ("#f4f8fb", "#bfd8ec", "#6ea8d2", "#2a6fac", "#0a3560")
DIVERGING = ("#1d4f91", "#7fa9d6", "#f7f6f4", "#e69a6b", "#a8420b")
FOR, AGAINST = (201, 67, 8), (24, 88, 190)
BLANK = (205, 210, 215)
MOST_KEYS = 60
MOST_CELLS = 900
"""Cells of a heat map that are drawn as rectangles; larger ones become one picture."""


@dataclass(frozen=True)
class Scale:
    """Where a value lies between the two ends of an axis, in pixels."""

    kind: str
    low: float
    high: float
    start: float
    end: float
    zero_apart: bool = False
    """True on a logarithmic axis that also shows 0: it stands at the start, before a break."""
    unit: float = 1.0
    """Where a symlog axis turns from linear to logarithmic."""

    def _bend(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        if self.kind == "symlog":
            return math.copysign(math.log1p(abs(value) / self.unit), value)
        return value

    def __call__(self, value: float) -> float:
        """The place of a value on the page."""
        if self.kind == "log" and value <= 0:
            return self.start
        low, high = self._bend(self.low), self._bend(self.high)
        place = (self._bend(value) - low) / (high - low)
        if self.zero_apart:
            place = 0.1 + 0.9 * place
        return self.start + place * (self.end - self.start)


def scale(axis: Record, values: Sequence[float], start: float, end: float) -> Scale:
    """The scale of an axis that shows all of these values."""
    kind = axis["scale"]
    if kind == "log" and any(value < 0 for value in values):
        kind = "symlog"
    shown = [value for value in values if value > 0] if kind == "log" else list(values)
    wanted = [end for end in (axis["low"], axis["high"]) if end is not None and (kind != "log" or end > 0)]
    if axis["format"] == "percent" and kind == "linear":
        # proportions are drawn against the whole, so that a small drop looks small
        wanted += [0.0, 1.0]
    low, high = min(shown + wanted, default=0.0 if kind != "log" else 0.1), max(shown + wanted, default=1.0)
    if low == high:
        low, high = (low / 2, high * 2) if kind == "log" else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)
    unit = min((abs(value) for value in values if value), default=1.0)
    zero_apart = kind == "log" and any(value == 0 for value in values)
    return Scale(kind, low, high, start, end, zero_apart, unit)


def ticks(axis: Record, along: Scale, values: Sequence[float], gap: float) -> list[float]:
    """Where an axis is labelled: at round numbers, on a curved axis at the measured values if they are few."""
    factor = 255.0 if axis["format"] == "n/255" else 1.0
    if along.kind == "linear":
        steps = [tick / factor for tick in _round_steps(along.low * factor, along.high * factor)]
        counted = axis["format"] == "number" and all(float(value).is_integer() for value in values)
        return [tick for tick in steps if not counted or float(tick).is_integer()]
    distinct = sorted(set(values))
    wanted = distinct if len(distinct) <= 12 else _decades(along, factor)
    kept: list[float] = []
    for tick in wanted:
        if not kept or abs(along(tick) - along(kept[-1])) >= gap:
            kept.append(tick)
    return kept


def _round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """About this many round numbers between two ends."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _decades(along: Scale, factor: float) -> list[float]:
    """Powers of ten (of two for n/255) inside the scale, with 2 and 5 between them where there are few."""
    base = 2.0 if factor != 1.0 else 10.0
    top = max(abs(along.low), abs(along.high)) * factor
    bottom = (along.low if along.kind == "log" else along.unit) * factor
    powers = range(math.floor(math.log(bottom, base)), math.ceil(math.log(top, base)) + 1)
    between = (1.0, 2.0, 5.0) if base == 10.0 and len(powers) <= 4 else (1.0,)
    sizes = [part * base**power / factor for power in powers for part in between]
    signed = sizes if along.kind == "log" else [*(-size for size in reversed(sizes)), 0.0, *sizes]
    return [value for value in signed if along.low <= value <= along.high]


def plot(chart: Record) -> Markup:
    """A curve or a scatter plot: SVG, and a legend when there is something to tell apart."""
    series = chart["series"]
    points = [point for line in series for point in line["points"]]
    xs = [point["x"] for point in points]
    ys = [y for point in points for y in (point["y"], point["low"], point["high"]) if y is not None]
    if not ys:
        return Markup('<p class="empty">Nothing was measured for this figure.</p>')
    across = scale(chart["x"], xs, LEFT, WIDTH - RIGHT)
    up = scale(chart["y"], ys, HEIGHT - BOTTOM, TOP)
    parts = [*_axes(chart, across, up, xs, ys)]
    curve = chart["kind"] == "curve"
    if curve:
        parts += [_band(line, index, across, up, len(series)) for index, line in enumerate(series)]
    step = max(1, math.ceil(len(points) / MOST_POINTS))
    for index, line in enumerate(series):
        if curve:
            parts.append(_line(line, index, across, up))
        parts += _marks(chart, index, across, up, step)
    note = Markup('<p class="note">Of {} points every {} is drawn.</p>').format(len(points), _ordinal(step))
    svg = _svg(WIDTH, HEIGHT, describe(chart), parts)
    return svg + _legend(series, curve, chart["title"]) + (note if step > 1 else Markup(""))


def describe(chart: Record) -> str:
    """A figure in words, for those who do not see it: each line's ends, each cloud's size."""
    x, y = chart["x"], chart["y"]
    words = [f"{chart['title']}. {y['label']} against {x['label']}."]
    for line in chart["series"]:
        known = [point for point in line["points"] if point["y"] is not None]
        if not known:
            words.append(f"{line['name']}: no data.")
        elif chart["kind"] == "scatter":
            words.append(f"{line['name']}: {len(known)} points.")
        else:
            first, last = (
                f"{formatting.formatted(p['y'], y['format'])} at {formatting.formatted(p['x'], x['format'])}"
                for p in (known[0], known[-1])
            )
            words.append(f"{line['name']}: {first}" + (f" to {last}." if len(known) > 1 else "."))
    return formatting.clean(" ".join(words))


def _svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """An SVG element whose text alternative is its title (the one that PDF readers get too)."""
    start = Markup(
        '<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" '
        'height="{h:.0f}" role="img" font-family="{font}" font-size="12"><title>{title}</title>'
    ).format(w=width, h=height, font=FONT, title=title)
    return start + Markup("\n").join(parts) + Markup("</svg>")


def as_pictures(figure: Markup) -> Markup:
    """A figure with every SVG as an image: WeasyPrint lays those out several times faster than inline ones."""

    def picture(found: re.Match[str]) -> str:
        # nobody points at paper: what the spots say would only be laid out for nothing
        bare = re.sub(r'<g data-line="\d+"><title>.*?</title>(.*?)</g>', r"\1", found[0], flags=re.DOTALL)
        bare = re.sub(r'<circle [^>]*pointer-events="all"/>', "", bare)
        # the marks of a line as one shape
        bare = re.sub(r'(" fill="[^"]*"[^>]* class="mark s\d+"/>)\s*<path d="(?=[^"]*\1)', "", bare)
        source = base64.b64encode(bare.encode("utf-8", "replace")).decode()
        return f'<img class="{found[1]}" alt="{found[2]}" src="data:image/svg+xml;base64,{source}"/>'

    return Markup(re.sub(r'<svg class="(\w+)".*?<title>(.*?)</title>.*?</svg>', picture, figure, flags=re.DOTALL))


def _text(x: float, y: float, text: str, anchor: str = "middle", colour: str = SOFT, **attributes: str) -> Markup:
    extra = Markup("").join(Markup(' {}="{}"').format(key.replace("_", "-"), item) for key, item in attributes.items())
    kind = "ink" if colour == INK else "soft"
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}" class="{}"{}>{}</text>').format(
        x, y, anchor, colour, kind, extra, formatting.clean(text)
    )


def _strokes(lines: Iterable[tuple[float, float, float, float]], *, colour: str = LINE, kind: str = "grid") -> Markup:
    """Straight lines, each from x, y to x, y, as one shape."""
    drawn = "".join(f"M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}" for x1, y1, x2, y2 in lines)
    return Markup('<path d="{}" stroke="{}" class="{}"/>').format(drawn, colour, kind)


def _axes(chart: Record, across: Scale, up: Scale, xs: Sequence[float], ys: Sequence[float]) -> Iterator[Markup]:
    """Grid, ticks, titles; breaks where a logarithmic axis shows 0."""
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    widest = max(len(_tick(chart["x"], value)) for value in (across.low, across.high))
    upward = ticks(chart["y"], up, ys, 18)
    yield _strokes((LEFT, up(tick), right, up(tick)) for tick in upward)
    for tick in upward:
        yield _text(LEFT - 8, up(tick) + 4, _tick(chart["y"], tick), "end")
    along = ticks(chart["x"], across, xs, 6.5 * widest + 6)
    marks = [(across(tick), base, across(tick), base + 5) for tick in along]
    yield _strokes([(LEFT, base, right, base), *marks], colour=SOFT, kind="axis")
    for tick in along:
        yield _text(across(tick), base + 19, _tick(chart["x"], tick))
    if across.zero_apart:
        yield _break(LEFT + 0.05 * (right - LEFT), base)
    yield _text((LEFT + right) / 2, HEIGHT - 8, _axis_title(chart["x"]), colour=INK)
    yield _text(8, 16, _axis_title(chart["y"]), "start", INK)


def _tick(axis: Record, value: float) -> str:
    """A tick's label: as short as the axis allows."""
    if axis["format"] == "percent" and abs(100 * value - round(100 * value)) < 1e-6:
        return f"{round(100 * value)} %"
    return formatting.formatted(value, axis["format"])


def _axis_title(axis: Record) -> str:
    """The label with its unit, where the tick labels do not already say it."""
    unit = axis["unit"]
    obvious = (
        axis["format"] != "number"
        or unit in ("1", "fraction", "count", "linf")
        or unit.lower() in axis["label"].lower()
    )
    curved = {"log": " (log scale)", "symlog": " (symmetric log scale)"}.get(axis["scale"], "")
    label: str = axis["label"]
    return label + ("" if obvious else f" ({formatting.norm_name(unit)})") + curved


def _break(x: float, y: float) -> Markup:
    """Two slanted strokes: here the axis jumps."""
    gap = Markup('<rect x="{:.1f}" y="{:.1f}" width="6" height="4" fill="#ffffff" class="paper"/>').format(x - 3, y - 2)
    return gap + _strokes([(x + side - 2, y + 5, x + side + 2, y - 5) for side in (-3, 3)], colour=SOFT, kind="axis")


def _runs(points: Sequence[Record], *keys: str) -> list[list[Record]]:
    """The stretches of points, in the order of x, in which all of these values are known."""
    ordered = sorted(points, key=lambda point: float(point["x"]))
    grouped = itertools.groupby(ordered, key=lambda point: all(point[key] is not None for key in keys))
    return [list(run) for known, run in grouped if known]


def _corners(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _band(line: Record, index: int, across: Scale, up: Scale, n_series: int) -> Markup:
    """The interval around a line; the more lines, the fainter."""
    opacity = 0.16 if n_series <= 3 else 0.08
    shapes = []
    for run in _runs(line["points"], "low", "high"):
        if len(run) > 1:
            corners = [(across(p["x"]), up(p["high"])) for p in run]
            corners += [(across(p["x"]), up(p["low"])) for p in reversed(run)]
            shapes.append(
                Markup('<polygon points="{}" fill="{}" fill-opacity="{}" class="band s{}"/>').format(
                    _corners(corners), _colour(index), opacity, index % len(COLOURS)
                )
            )
    return Markup("").join(shapes)


def _line(line: Record, index: int, across: Scale, up: Scale) -> Markup:
    """The line itself, broken where nothing was measured."""
    shape = Markup(
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="2" stroke-linejoin="round"{} class="line s{}"/>'
    )
    shapes = [
        shape.format(
            _corners([(across(p["x"]), up(p["y"])) for p in run]), _colour(index), _dash(index), index % len(COLOURS)
        )
        for run in _runs(line["points"], "y")
        if len(run) > 1
    ]
    return Markup("").join(shapes)


def _marks(chart: Record, index: int, across: Scale, up: Scale, step: int) -> Iterator[Markup]:
    """A mark per point that says its numbers when pointed at; a whisker where no band can show the interval."""
    line, scatter = chart["series"][index], chart["kind"] == "scatter"
    if not scatter and len(line["points"]) > MOST_MARKS:
        for point in line["points"][:: math.ceil(len(line["points"]) / MOST_SPOTS)]:
            if point["y"] is not None:
                yield _spot(index, _said(chart, line, point), _bare(across(point["x"]), up(point["y"])))
        return
    lone = scatter or len(line["points"]) == 1
    for point in line["points"][::step]:
        if point["y"] is None:
            continue
        x, y = across(point["x"]), up(point["y"])
        ends = (point["low"], point["high"])
        whisker = _whisker(x, up(ends[0]), up(ends[1]), index) if lone and None not in ends else Markup("")
        mark = _mark(x, y, index, 2.6 if scatter else 3.4, 0.7 if scatter else 1)
        if step > 1:
            yield whisker + mark
        else:
            yield _spot(index, _said(chart, line, point), whisker + mark)


def _spot(line: int, said: str, shapes: Markup) -> Markup:
    """Something that says its numbers when pointed at; the last of its shapes is where it is."""
    return Markup('<g data-line="{}"><title>{}</title>{}</g>').format(line, said, shapes)


def _bare(x: float, y: float) -> Markup:
    """A point without a mark."""
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="none" pointer-events="all"/>').format(x, y)


def _whisker(x: float, low: float, high: float, index: int) -> Markup:
    return Markup(
        '<line x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}" stroke="{3}" stroke-width="1.5" class="line s{4}"/>'
    ).format(x, low, high, _colour(index), index % len(COLOURS))


def _said(chart: Record, line: Record, point: Record) -> str:
    """A point in words."""
    content = {"value": point["y"], "low": point["low"], "high": point["high"]}
    said = formatting.cell(content, chart["y"]["format"])
    many = f", n = {point['n']}" if point["n"] is not None else ""
    return formatting.clean(f"{line['name']}: {said} at {formatting.formatted(point['x'], chart['x']['format'])}{many}")


def _mark(x: float, y: float, index: int, size: float, opacity: float = 1.0) -> Markup:
    """Circle, square, triangle or diamond: shape tells series apart where colour does not."""
    shapes = (
        f"M{x - size:.1f},{y:.1f}a{size},{size} 0 1 0 {2 * size},0a{size},{size} 0 1 0 {-2 * size},0z",
        f"M{x - size:.1f},{y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}z",
        f"M{x:.1f},{y - 1.2 * size:.1f}l{1.2 * size:.2f},{2.1 * size:.2f}h{-2.4 * size:.2f}z",
        f"M{x:.1f},{y - 1.3 * size:.1f}l{1.3 * size:.2f},{1.3 * size:.2f}l{-1.3 * size:.2f},{1.3 * size:.2f}"
        f"l{-1.3 * size:.2f},{-1.3 * size:.2f}z",
    )
    seen = Markup(' fill-opacity="{}"').format(opacity) if opacity < 1 else ""
    return Markup('<path d="{}" fill="{}"{} class="mark s{}"/>').format(
        shapes[index % len(shapes)], _colour(index), seen, index % len(COLOURS)
    )


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> Markup:
    pattern = DASHES[index % len(DASHES)]
    return Markup(' stroke-dasharray="{}"').format(pattern) if pattern else Markup("")


def _legend(series: Sequence[Record], curve: bool, title: str) -> Markup:
    """The names of the series, each with its line and mark; none for a single one that the title names."""
    if len(series) == 1 and series[0]["name"].casefold() in title.casefold():
        return Markup("")
    items = []
    for index, line in enumerate(series):
        stroke = Markup('<line x1="0" y1="6" x2="30" y2="6" stroke="{}" stroke-width="2"{} class="line s{}"/>').format(
            _colour(index), _dash(index), index % len(COLOURS)
        )
        swatch = Markup(
            '<svg class="swatch" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 30 12" width="30" height="12" '
            'aria-hidden="true"><title>Key {}</title>{}{}</svg>'
        ).format(index + 1, stroke if curve else "", _mark(15, 6, index, 3.4))
        items.append(Markup('<li>{}<span dir="auto">{}</span></li>').format(swatch, formatting.clean(line["name"])))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _ordinal(count: int) -> str:
    return {2: "second", 3: "third"}.get(count, f"{count}th")


# Heat maps


@dataclass(frozen=True)
class Colours:
    """The colour scale of a heat map, from the value at one end to the value at the other."""

    low: float
    high: float
    diverging: bool

    def __call__(self, value: float | None) -> RGB:
        """The colour of a value; grey where there is none."""
        if value is None:
            return BLANK
        stops = DIVERGING if self.diverging else SEQUENTIAL
        place = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) * (len(stops) - 1)
        first = min(int(place), len(stops) - 2)
        pairs = zip(_rgb(stops[first]), _rgb(stops[first + 1]), strict=True)
        red, green, blue = (round(a + (b - a) * (place - first)) for a, b in pairs)
        return red, green, blue


@dataclass(frozen=True)
class Matrix:
    """Where the cells of a heat map lie."""

    rows: int
    columns: int
    left: float
    above: float
    size: float

    def x(self, column: float) -> float:
        """The left side of a column."""
        return self.left + column * self.size

    def y(self, row: float) -> float:
        """The upper side of a row."""
        return self.above + row * self.size


def heat_map(chart: Record) -> Markup:
    """A matrix as colours: with its numbers where they can be read, as one picture where it is large."""
    known = [value for row in chart["values"] for value in row if value is not None]
    if not known:
        return Markup('<p class="empty">Nothing was measured for this figure.</p>')
    n_rows, n_columns = len(chart["values"]), max(len(row) for row in chart["values"])
    rows, row_key = _labels(chart["row_labels"], n_rows)
    columns, column_key = _labels(chart["column_labels"], n_columns)
    left = 30 + 7 * max((len(label) for label in rows), default=0)
    # a map of places is looked at, not read: small, without its numbers
    largest = 36.0 if rows or columns else 20.0
    size = min(largest, (WIDTH - left - 80) / n_columns, 560 / n_rows)
    longest = max((len(label) for label in columns), default=0)
    upright = 7 * longest + 8 < size
    titles = 22 if chart.get("column_title") or chart.get("row_title") else 0
    names = 0 if not columns else 18 if upright else 12 + 6.5 * longest
    matrix = Matrix(n_rows, n_columns, left, 6 + titles + names, size)
    colours = _colours(chart, known)
    parts = [*_titles(chart, matrix), *_cells(chart, matrix, colours)]
    parts += [*_row_names(rows, matrix), *_column_names(columns, matrix, upright), *_colour_bar(chart, matrix, colours)]
    ends = f"from {_shown(chart, min(known))} to {_shown(chart, max(known))}"
    words = formatting.clean(f"{chart['title']}. {n_rows} rows, {n_columns} columns, {ends}.")
    svg = _svg(max(matrix.x(n_columns) + 80, 320), matrix.y(n_rows) + 12, words, parts)
    if row_key == column_key:
        return svg + _key(row_key, "Rows and columns")
    return svg + _key(row_key, "Rows") + _key(column_key, "Columns")


def _titles(chart: Record, matrix: Matrix) -> Iterator[Markup]:
    """What rows and columns are; a plugin may leave either out."""
    titles = (("row_title", "\N{DOWNWARDS ARROW}"), ("column_title", "\N{RIGHTWARDS ARROW}"))
    said = [f"{chart[key]} {arrow}" for key, arrow in titles if chart.get(key)]
    if said:
        yield _text(0, 14, ",  ".join(said), "start", INK)


def _labels(labels: Sequence[str], count: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Short labels for the axis, and a key where the real ones are too long for it."""
    cleaned = [formatting.clean(label) for label in labels[:count]]
    if not cleaned or max(len(label) for label in cleaned) <= 16:
        return cleaned, []
    key = [(str(index + 1), label) for index, label in enumerate(cleaned)]
    return [short for short, _ in key], key


def _key(key: Sequence[tuple[str, str]], what: str) -> Markup:
    if not key:
        return Markup("")
    pair = Markup('<li><b>{}</b> <span dir="auto">{}</span></li>')
    items = Markup("").join(pair.format(*each) for each in key[:MOST_KEYS])
    more = f" (the first {MOST_KEYS} of {len(key)})" if len(key) > MOST_KEYS else ""
    return Markup('<div class="key"><p class="note">{}{}</p><ul>{}</ul></div>').format(what, more, items)


def _colours(chart: Record, known: Sequence[float]) -> Colours:
    """The colour scale that shows all of these values; around zero where zero is the middle."""
    if chart["diverging"]:
        most = max(abs(value) for value in known) or 1.0
        return Colours(-most, most, True)
    low, high = min(0.0, *known), max(known)
    return Colours(low, high if high > low else low + 1.0, False)


def _cells(chart: Record, matrix: Matrix, colours: Colours) -> Iterator[Markup]:
    """The cells: rectangles that name themselves, or one picture when there are many."""
    if matrix.rows * matrix.columns > MOST_CELLS:
        yield Markup(
            '<image x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" '
            'image-rendering="pixelated" href="{}"/>'
        ).format(
            matrix.left,
            matrix.above,
            matrix.size * matrix.columns,
            matrix.size * matrix.rows,
            _as_picture(chart["values"], matrix, colours),
        )
        return
    for (row, line), column in itertools.product(enumerate(chart["values"]), range(matrix.columns)):
        value = line[column] if column < len(line) else None
        x, y = matrix.x(column), matrix.y(row)
        shade = colours(value)
        cell = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>').format(
            x, y, matrix.size - 1, matrix.size - 1, "#{:02x}{:02x}{:02x}".format(*shade)
        )
        text = _shown(chart, value)
        inside = _inside(_short(chart, value), matrix, x, y, shade) if matrix.size >= 24 else Markup("")
        said = f"{_label(chart['row_labels'], row)}, {_label(chart['column_labels'], column)}: {text}"
        yield _spot(row, formatting.clean(said), cell + inside)


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index + 1)


def _inside(short: str, matrix: Matrix, x: float, y: float, shade: RGB) -> Markup:
    """The number of a cell, dark on light and light on dark."""
    bright = 0.299 * shade[0] + 0.587 * shade[1] + 0.114 * shade[2] > 140
    font = 11 if len(short) < 4 else 9
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle" font-size="{}" fill="{}">{}</text>').format(
        x + (matrix.size - 1) / 2, y + matrix.size / 2 + font * 0.35, font, "#101820" if bright else "#ffffff", short
    )


def _shown(chart: Record, value: float | None) -> str:
    return formatting.formatted(value, chart["format"])


def _short(chart: Record, value: float | None) -> str:
    """A cell's number as short as it can be; pointing at the cell says it in full."""
    if value is None:
        return formatting.NOTHING
    if chart["format"] == "percent":
        return formatting.number(round(100 * value, 0 if abs(value) >= 0.0995 else 1))
    return formatting.number(float(f"{value:.2g}")) if chart["format"] == "number" else formatting.number(value)


def _step(matrix: Matrix) -> int:
    """Every how many rows or columns a label fits."""
    return max(1, math.ceil(11 / matrix.size))


def _row_names(names: Sequence[str], matrix: Matrix) -> list[Markup]:
    shown = range(0, len(names), _step(matrix))
    return [_text(matrix.left - 6, matrix.y(row + 0.5) + 3.5, names[row], "end", font_size="11") for row in shown]


def _column_names(names: Sequence[str], matrix: Matrix, upright: bool) -> Iterator[Markup]:
    """The names above the columns, on their side where they are wider than a cell."""
    for column in range(0, len(names), _step(matrix)):
        x, y = matrix.x(column + 0.5), matrix.above - 6
        if upright:
            yield _text(x, y, names[column], font_size="11")
        else:
            turn = f"rotate(-90 {x + 3.5:.1f} {y:.1f})"
            yield _text(x + 3.5, y, names[column], "start", font_size="11", transform=turn)


def _colour_bar(chart: Record, matrix: Matrix, colours: Colours) -> list[Markup]:
    """The colour scale beside the matrix: twenty steps with its ends named."""
    steps, x, y = 20, matrix.x(matrix.columns) + 18, matrix.above
    height = min(max(matrix.size * matrix.rows, 40), 160)
    span = colours.high - colours.low
    parts = [
        Markup('<rect x="{:.1f}" y="{:.2f}" width="10" height="{:.2f}" fill="{}"/>').format(
            x,
            y + height * (steps - 1 - step) / steps,
            height / steps + 0.5,
            "#{:02x}{:02x}{:02x}".format(*colours(colours.low + span * step / (steps - 1))),
        )
        for step in range(steps)
    ]
    ends = ((colours.high, y + 8), (colours.low, y + height))
    return parts + [_text(x + 15, place, _shown(chart, value), "start", font_size="11") for value, place in ends]


def _rgb(colour: str) -> RGB:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _as_picture(values: Sequence[Sequence[float | None]], matrix: Matrix, colours: Colours) -> str:
    """A large matrix as a PNG of one pixel per cell, enlarged without smoothing so that viewers cannot blur it."""
    span = colours.high - colours.low
    palette = [part for step in range(255) for part in colours(colours.low + span * step / 254)]
    steps: dict[float | None, int] = {None: 255}
    filled = [value for row in values for value in [*row, *[None] * (matrix.columns - len(row))]]
    steps |= {value: round(254 * (value - colours.low) / span) for value in set(filled) if value is not None}
    picture = Image.new("P", (matrix.columns, matrix.rows))
    picture.putpalette([*palette, *BLANK])
    picture.frombytes(bytes(steps[value] for value in filled))
    return png_uri(_enlarged(picture, 700))


def overlay(heat: Sequence[Sequence[float]]) -> str | None:
    """A heat map to lay over a picture: warm for the class, cool against it, clear where it does not matter."""
    n_columns = max((len(row) for row in heat), default=0)
    most = max((abs(value) for row in heat for value in row), default=0.0)
    if not n_columns or not most:
        return None
    picture = Image.new("RGBA", (n_columns, len(heat)))
    filled = [value for row in heat for value in [*row, *[0.0] * (n_columns - len(row))]]
    picture.putdata([(*(FOR if value > 0 else AGAINST), round(190 * abs(value) / most)) for value in filled])
    return png_uri(_enlarged(picture, 168))


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    """The picture with whole-numbered enlargement up to about this many pixels a side."""
    factor = max(1, side // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def png_uri(picture: Image.Image) -> str:
    """A Pillow image as a data URI."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
