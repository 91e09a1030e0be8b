"""Heat maps as inline SVG, and heat overlays of images as small PNGs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from auditor.findings import formatting
from auditor.findings.record import HeatMapRecord
from auditor.report.plot import WIDTH
from auditor.report.svg import INK, png_uri, svg, text, tooltip

RGB = tuple[int, int, int]

SEQUENTIAL = ("#f4f8fb", "#bfd8ec", "#6ea8d2", "#2a6fac", "#0a3560")
DIVERGING = ("#1d4f91", "#7fa9d6", "#f7f6f4", "#e69a6b", "#a8420b")
SUPPORTING, OPPOSING = (201, 67, 8), (24, 88, 190)
MISSING = (205, 210, 215)

MAX_KEYS = 60
"""Names in the key below a heat map."""

MAX_CELLS = 900
"""Cells drawn as rectangles; a larger heat map is one image."""

_Key = list[tuple[str, str]]


@dataclass(frozen=True)
class ColourScale:
    """Map the values from ``low`` to ``high`` to colours."""

    low: float
    high: float
    diverging: bool

    def __call__(self, value: float | None) -> RGB:
        """Return the colour of a value; grey for a missing one."""
        if value is None:
            return MISSING
        stops = DIVERGING if self.diverging else SEQUENTIAL
        position = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) * (len(stops) - 1)
        first = min(int(position), len(stops) - 2)
        pairs = zip(_rgb(stops[first]), _rgb(stops[first + 1]), strict=True)
        red, green, blue = (round(a + (b - a) * (position - first)) for a, b in pairs)
        return red, green, blue


@dataclass(frozen=True)
class Matrix:
    """Positions of the cells of a heat map, in pixels."""

    rows: int
    columns: int
    left: float
    top: float
    size: float

    def x(self, column: float) -> float:
        """Return the left side of a column."""
        return self.left + column * self.size

    def y(self, row: float) -> float:
        """Return the upper side of a row."""
        return self.top + row * self.size


def heat_map(chart: HeatMapRecord) -> Markup:
    """Draw a matrix as colours: small cells without numbers, large matrices as one image."""
    known = [value for row in chart["values"] for value in row if value is not None]
    if not known:
        return Markup('<p class="empty">Nothing was measured for this figure.</p>')
    n_rows, n_columns = len(chart["values"]), max(len(row) for row in chart["values"])
    rows, row_key = _labels(chart["row_labels"], n_rows)
    columns, column_key = _labels(chart["column_labels"], n_columns)
    matrix, upright = _matrix(chart, rows, columns, n_columns)
    colours = _colour_scale(chart, known)
    parts = [
        *_titles(chart),
        *_cells(chart, matrix, colours),
        *_row_names(rows, matrix),
        *_column_names(columns, matrix, upright),
        *_colour_bar(chart, matrix, colours),
    ]
    ends = f"from {_number(chart, min(known))} to {_number(chart, max(known))}"
    title = formatting.clean(f"{chart['title']}. {n_rows} rows, {n_columns} columns, {ends}.")
    drawing = svg(max(matrix.x(n_columns) + 80, 320), matrix.y(n_rows) + 12, title, parts)
    if row_key == column_key:
        return drawing + _key(row_key, "Rows and columns")
    return drawing + _key(row_key, "Rows") + _key(column_key, "Columns")


def _matrix(chart: HeatMapRecord, rows: Sequence[str], columns: Sequence[str], n_columns: int) -> tuple[Matrix, bool]:
    """Place the matrix, and say whether the column names fit above it without rotation."""
    n_rows = len(chart["values"])
    left = 30 + 7 * max((len(label) for label in rows), default=0)
    # a map of image positions has no names and stays small
    largest = 36.0 if rows or columns else 20.0
    size = min(largest, (WIDTH - left - 80) / n_columns, 560 / n_rows)
    longest = max((len(label) for label in columns), default=0)
    upright = 7 * longest + 8 < size
    titles = 22 if chart.get("column_title") or chart.get("row_title") else 0
    names = 18 if upright else 12 + 6.5 * longest
    return Matrix(n_rows, n_columns, left, 6 + titles + (names if columns else 0), size), upright


def _titles(chart: HeatMapRecord) -> Iterator[Markup]:
    """Name rows and columns; both titles are optional."""
    titles = (
        (chart.get("row_title"), "\N{DOWNWARDS ARROW}"),
        (chart.get("column_title"), "\N{RIGHTWARDS ARROW}"),
    )
    parts = [f"{title} {arrow}" for title, arrow in titles if title]
    if parts:
        yield text(0, 14, ",  ".join(parts), "start", INK)


def _labels(labels: Sequence[str], count: int) -> tuple[list[str], _Key]:
    """Return labels for the axis; long labels are replaced by numbers and listed in a key."""
    cleaned = [formatting.clean(label) for label in labels[:count]]
    if not cleaned or max(len(label) for label in cleaned) <= 16:
        return cleaned, []
    key = [(str(index + 1), label) for index, label in enumerate(cleaned)]
    return [number for number, _ in key], key


def _key(key: _Key, title: str) -> Markup:
    if not key:
        return Markup("")
    pair = Markup('<li><b>{}</b> <span dir="auto">{}</span></li>')
    items = Markup("").join(pair.format(*each) for each in key[:MAX_KEYS])
    more = f" (the first {MAX_KEYS} of {len(key)})" if len(key) > MAX_KEYS else ""
    return Markup('<div class="key"><p class="note">{}{}</p><ul>{}</ul></div>').format(title, more, items)


def _colour_scale(chart: HeatMapRecord, known: Sequence[float]) -> ColourScale:
    """Return the colour scale of all values; symmetric if zero is the middle."""
    if chart["diverging"]:
        limit = max(abs(value) for value in known) or 1.0
        return ColourScale(-limit, limit, True)
    low, high = min(0.0, *known), max(known)
    return ColourScale(low, high if high > low else low + 1.0, False)


def _cells(chart: HeatMapRecord, matrix: Matrix, colours: ColourScale) -> Iterator[Markup]:
    """Draw the cells as rectangles with tooltips, or as one image if they are many."""
    if matrix.rows * matrix.columns > MAX_CELLS:
        yield Markup(
            '<image x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none" '
            'image-rendering="pixelated" href="{}"/>'
        ).format(
            matrix.left,
            matrix.top,
            matrix.size * matrix.columns,
            matrix.size * matrix.rows,
            _matrix_uri(chart["values"], matrix, colours),
        )
        return
    for (row, line), column in itertools.product(enumerate(chart["values"]), range(matrix.columns)):
        value = line[column] if column < len(line) else None
        yield _cell(chart, matrix, (row, column), value, colours(value))


def _cell(chart: HeatMapRecord, matrix: Matrix, at: tuple[int, int], value: float | None, colour: RGB) -> Markup:
    row, column = at
    x, y = matrix.x(column), matrix.y(row)
    shapes = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>').format(
        x, y, matrix.size - 1, matrix.size - 1, _hex(colour)
    )
    if matrix.size >= 24:
        shapes += _cell_number(_short(chart, value), matrix, x, y, colour)
    names = f"{_label(chart['row_labels'], row)}, {_label(chart['column_labels'], column)}"
    return tooltip(row, formatting.clean(f"{names}: {_number(chart, value)}"), shapes)


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index + 1)


def _cell_number(number: str, matrix: Matrix, x: float, y: float, colour: RGB) -> Markup:
    """Write the number of a cell, dark on light colours and light on dark ones."""
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    font = 11 if len(number) < 4 else 9
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle" font-size="{}" fill="{}">{}</text>').format(
        x + (matrix.size - 1) / 2, y + matrix.size / 2 + font * 0.35, font, "#101820" if bright else "#ffffff", number
    )


def _number(chart: HeatMapRecord, value: float | None) -> str:
    return formatting.formatted(value, chart["format"])


def _short(chart: HeatMapRecord, value: float | None) -> str:
    """Format a cell's number as short as possible; the tooltip has it in full."""
    if value is None:
        return formatting.NOTHING
    if chart["format"] == "percent":
        return formatting.number(round(100 * value, 0 if abs(value) >= 0.0995 else 1))
    return formatting.number(float(f"{value:.2g}")) if chart["format"] == "number" else formatting.number(value)


def _label_step(matrix: Matrix) -> int:
    """Return every how many rows or columns a label fits."""
    return max(1, math.ceil(11 / matrix.size))


def _row_names(names: Sequence[str], matrix: Matrix) -> list[Markup]:
    return [
        text(matrix.left - 6, matrix.y(row + 0.5) + 3.5, names[row], "end", font_size="11")
        for row in range(0, len(names), _label_step(matrix))
    ]


def _column_names(names: Sequence[str], matrix: Matrix, upright: bool) -> Iterator[Markup]:
    """Write the names above the columns, rotated if they are wider than a cell."""
    for column in range(0, len(names), _label_step(matrix)):
        x, y = matrix.x(column + 0.5), matrix.top - 6
        if upright:
            yield text(x, y, names[column], font_size="11")
        else:
            rotation = f"rotate(-90 {x + 3.5:.1f} {y:.1f})"
            yield text(x + 3.5, y, names[column], "start", font_size="11", transform=rotation)


def _colour_bar(chart: HeatMapRecord, matrix: Matrix, colours: ColourScale) -> list[Markup]:
    """Draw the colour scale in twenty steps next to the matrix."""
    steps, x, y = 20, matrix.x(matrix.columns) + 18, matrix.top
    height = min(max(matrix.size * matrix.rows, 40), 160)
    span = colours.high - colours.low
    bar = Markup('<rect x="{:.1f}" y="{:.2f}" width="10" height="{:.2f}" fill="{}"/>')
    parts = [
        bar.format(
            x,
            y + height * (steps - 1 - step) / steps,
            height / steps + 0.5,
            _hex(colours(colours.low + span * step / (steps - 1))),
        )
        for step in range(steps)
    ]
    ends = ((colours.high, y + 8), (colours.low, y + height))
    return parts + [text(x + 15, at, _number(chart, value), "start", font_size="11") for value, at in ends]


def _rgb(colour: str) -> RGB:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hex(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _matrix_uri(values: Sequence[Sequence[float | None]], matrix: Matrix, colours: ColourScale) -> str:
    """Return a large matrix as a PNG; it is enlarged without smoothing, so that viewers cannot blur it."""
    span = colours.high - colours.low
    palette = [part for step in range(255) for part in colours(colours.low + span * step / 254)]
    steps: dict[float | None, int] = {None: 255}
    filled = [value for row in values for value in [*row, *[None] * (matrix.columns - len(row))]]
    steps |= {value: round(254 * (value - colours.low) / span) for value in set(filled) if value is not None}
    picture = Image.new("P", (matrix.columns, matrix.rows))
    picture.putpalette([*palette, *MISSING])
    picture.frombytes(bytes(steps[value] for value in filled))
    return png_uri(_enlarged(picture, 700))


def overlay(heat: Sequence[Sequence[float]]) -> str | None:
    """Return a heat map to lay over an image: warm supports the class, cool opposes it, transparent is neutral."""
    n_columns = max((len(row) for row in heat), default=0)
    largest = max((abs(value) for row in heat for value in row), default=0.0)
    if not n_columns or not largest:
        return None
    picture = Image.new("RGBA", (n_columns, len(heat)))
    filled = [value for row in heat for value in [*row, *[0.0] * (n_columns - len(row))]]
    picture.putdata([(*(SUPPORTING if value > 0 else OPPOSING), round(190 * abs(value) / largest)) for value in filled])
    return png_uri(_enlarged(picture, 168))


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    """Enlarge by a whole number, up to about this many pixels a side."""
    factor = max(1, side // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
