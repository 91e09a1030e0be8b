"""The report as one HTML file that needs nothing else: no network, no fonts, no second file.

The same templates make the PDF (``paper=True``): without navigation and script, with nothing folded away, and with
long tables cut to what a reader turns pages for.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from auditor.findings import formatting
from auditor.findings.finding import AREAS
from auditor.report import charts, documented, frameworks, summary

TEMPLATES = "auditor.report_templates"

SMALL = 64
"""Pictures up to this many pixels a side are embedded as they are, lossless, and enlarged without smoothing."""
THUMBNAIL = 224
"""The longest side of what is embedded of a larger picture; the lossless file stays in the run folder."""


@dataclass(frozen=True)
class Limits:
    """How much of an example stands in the page, which says how much more there is in audit.json."""

    rows: int
    """Rows of a table."""
    shots: int
    """Rows of a grid of pictures."""
    letters: int
    """Letters of a table side by side; further columns follow below with those repeated that name a row."""
    pictures: int = 8
    """Pictures of a grid side by side."""


SCREEN = Limits(rows=1000, shots=1000, letters=100000)
"""On screen, where tables can be sorted and filtered."""
PAPER = Limits(rows=20, shots=3, letters=105)
"""On paper, where every row is a line to turn pages for: of what failed."""
BRIEF = Limits(rows=10, shots=1, letters=105)
"""On paper, of what did not fail."""
FEW_ROWS = 3
"""Rows from which on, on paper, what is the same in all of them is said once."""
MOST_WORST = 3
"""Findings on the first page."""


@dataclass(frozen=True)
class Embedded:
    """A picture as it stands in the page."""

    uri: str
    pixels: bool
    """True when its pixels are to be seen as pixels."""


@dataclass
class Pictures:
    """Reads evidence files into data URIs, each once."""

    run: Path
    paper: bool
    _known: dict[str, Embedded | None] = field(default_factory=dict)

    def __call__(self, file: str) -> Embedded | None:
        """The picture, or None when the file is missing or cannot be read."""
        if file not in self._known:
            try:
                self._known[file] = self._read(self.run / file)
            except (OSError, ValueError, SyntaxError):  # Pillow raises all three for damaged files
                self._known[file] = None
        return self._known[file]

    def _read(self, path: Path) -> Embedded:
        with Image.open(path) as stored:
            pixels = max(stored.size) <= SMALL
            picture = _on_white(stored)
        if not pixels:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            return Embedded(_jpeg_uri(picture), False)
        if self.paper:
            # PDF viewers smooth what they enlarge, whatever the file says
            factor = max(1, 2 * SMALL // max(picture.size))
            size = (picture.width * factor, picture.height * factor)
            picture = picture.resize(size, Image.Resampling.NEAREST)
        return Embedded(charts.png_uri(picture), True)


def _on_white(picture: Image.Image) -> Image.Image:
    """The picture as RGB; what is transparent becomes white."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    clear = picture.convert("RGBA")
    ground = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(ground, clear).convert("RGB")


def _jpeg_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def same(columns: Sequence[str], rows: Sequence[Sequence[Any]], formats: Sequence[str]) -> dict[int, str]:
    """The columns of a table, by index, that say the same in every row, with what they say.

    Not those that name a row, and none of a table with few rows or of one that would be nothing but names without them.
    """
    said = {column: set(_words(rows, formats, column)) for column in range(_names(rows, len(columns)), len(columns))}
    alike = {column: words.pop() for column, words in said.items() if len(words) == 1}
    return alike if len(rows) >= FEW_ROWS and len(alike) < len(said) else {}


def _words(rows: Sequence[Sequence[Any]], formats: Sequence[str], column: int) -> list[str]:
    """What stands in a column."""
    style = formats[column] if column < len(formats) else "text"
    return [formatting.cell(row[column] if column < len(row) else None, style) for row in rows]


def blocks(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    formats: Sequence[str],
    most: int,
    without: Collection[int] = (),
) -> list[list[int]]:
    """The columns of a table in blocks that fit side by side; the columns that name a row stand in every block."""
    names = list(range(len(columns)))[: _names(rows, len(columns))]
    widths = []
    for column, title in enumerate(columns):
        cells = _words(rows, formats, column)
        longest_word = max(map(len, title.split()), default=0)
        widths.append(3 + min(max([longest_word, *map(len, cells)]), 30))
    whole = most - sum(widths[column] for column in names)
    found, room = [names], whole
    for column in (each for each in range(len(names), len(columns)) if each not in without):
        if widths[column] > room and len(found[-1]) > len(names):
            found.append(names)
            room = whole
        found[-1] = [*found[-1], column]
        room -= widths[column]
    return found


def _names(rows: Sequence[Sequence[Any]], columns: int) -> int:
    """How many of the first columns it takes to tell the rows apart, if one or two do; else one."""
    two = {tuple(map(str, row[:2])) for row in rows}
    one = {str(row[0]) for row in rows if row}
    return 2 if columns > 2 and len(one) < len(two) == len(rows) else 1


def long(text: str) -> bool:
    """True for text with a word that must be broken to fit into a table."""
    return max(map(len, text.split()), default=0) > 20


def chunks(count: int, most: int) -> list[list[int]]:
    """The indices of so many pictures in rows of at most ``most``."""
    return [list(range(start, min(start + most, count))) for start in range(0, count, most)]


def _finalize(content: Any) -> Any:
    """Every foreign text on its way into the page: without control characters and direction overrides."""
    return formatting.clean(content) if isinstance(content, str) and not isinstance(content, Markup) else content


def environment(*, paper: bool) -> jinja2.Environment:
    """Jinja with what every page needs: autoescape, names and numbers as text, figures."""
    result = jinja2.Environment(
        loader=jinja2.PackageLoader(TEMPLATES, ""),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        formatting.cell,
        formatting.formatted,
        formatting.interval,
        formatting.measured,
        formatting.measured_at,
        formatting.norm_name,
        formatting.number,
        formatting.place,
        formatting.reading,
        formatting.seconds,
        formatting.setting,
        formatting.sort_key,
        summary.file_name,
        charts.overlay,
        blocks,
        same,
        chunks,
        long,
    ):
        result.globals[function.__name__] = function
    result.globals["paper"] = paper
    result.globals["limits"] = PAPER if paper else SCREEN
    result.globals["brief"] = BRIEF if paper else SCREEN
    result.globals["figure"] = partial(_figure, paper=paper)
    result.globals["metric_name"] = formatting.name
    result.globals["metric_value"] = formatting.value
    return result


def _figure(evidence: Mapping[str, Any], *, paper: bool) -> Markup:
    """A curve, scatter plot or heat map."""
    drawn = charts.heat_map(evidence) if evidence["kind"] == "heat-map" else charts.plot(evidence)
    if paper:
        return charts.as_pictures(drawn)
    return Markup('<div class="plot" data-title="{}">{}</div>').format(formatting.clean(evidence["title"]), drawn)


def asset(name: str) -> Markup:
    """A style sheet or script of the package: ours, so it needs no escaping."""
    return Markup((files(TEMPLATES) / name).read_text("utf-8"))


def page(audit: Mapping[str, Any], run: Path, *, paper: bool, size: str = "a4") -> str:
    """The whole report as HTML text; ``size`` is that of the paper, "a4" or "letter"."""
    script = asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    worst = summary.worst_findings(audit, MOST_WORST)
    areas = [(area, title, [p for p in audit["probes"] if p["area"] == area]) for area, title in _titles()]
    return (
        environment(paper=paper)
        .get_template("report.html.j2")
        .render(
            audit=audit,
            size=size,
            style=asset("report.css"),
            script=script,
            script_digest=digest,
            areas=areas,
            counts=summary.counts(audit),
            sentences=summary.sentences(audit),
            worst=worst,
            unjudged=summary.worst_numbers(audit, MOST_WORST - len(worst)),
            glance=summary.glance(audit),
            gaps=summary.gaps(audit),
            accepted=summary.accepted(audit),
            frameworks=frameworks.appendix(audit["probes"]),
            documented=documented.examples(audit),
            picture=Pictures(run, paper),
        )
    )


def _titles() -> list[tuple[str, str]]:
    return [(area, summary.AREA_TITLES[area]) for area in AREAS]


def render_html(audit: Mapping[str, Any], run: Path) -> bytes:
    """report.html: one file that works from disk and as an attachment."""
    return page(audit, run, paper=False).encode("utf-8")
