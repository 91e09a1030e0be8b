"""SVG elements shared by all figures.

Every mark has its light colours as attributes, because WeasyPrint does not apply a page's CSS inside an SVG. The
classes let the style sheet recolour everything in a dark browser.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from PIL import Image

from auditor.findings import formatting

FONT = "Inter, Segoe UI, Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, SOFT, LINE = "#16202c", "#52606d", "#dde3e9"


def svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    """Return an SVG element; its title is the text alternative, also in PDF."""
    start = Markup(
        '<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" '
        'height="{h:.0f}" role="img" font-family="{font}" font-size="12"><title>{title}</title>'
    ).format(w=width, h=height, font=FONT, title=title)
    return start + Markup("\n").join(parts) + Markup("</svg>")


def svg_as_images(figure: Markup) -> Markup:
    """Replace every SVG of a figure by an image; WeasyPrint lays images out several times faster."""
    return Markup(re.sub(r'<svg class="(\w+)".*?<title>(.*?)</title>.*?</svg>', _as_image, figure, flags=re.DOTALL))


def _as_image(element: re.Match[str]) -> str:
    # tooltips have no use on paper and cost layout time
    bare = re.sub(r'<g data-line="\d+"><title>.*?</title>(.*?)</g>', r"\1", element[0], flags=re.DOTALL)
    bare = re.sub(r'<circle [^>]*pointer-events="all"/>', "", bare)
    # merge the marks of a line into one shape
    bare = re.sub(r'(" fill="[^"]*"[^>]* class="mark s\d+"/>)\s*<path d="(?=[^"]*\1)', "", bare)
    source = base64.b64encode(bare.encode("utf-8", "replace")).decode()
    return f'<img class="{element[1]}" alt="{element[2]}" src="data:image/svg+xml;base64,{source}"/>'


def text(x: float, y: float, content: str, anchor: str = "middle", colour: str = SOFT, **attributes: str) -> Markup:
    """Return a text element; further attributes have underscores for hyphens."""
    extra = Markup("").join(Markup(' {}="{}"').format(key.replace("_", "-"), item) for key, item in attributes.items())
    kind = "ink" if colour == INK else "soft"
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}" class="{}"{}>{}</text>').format(
        x, y, anchor, colour, kind, extra, formatting.clean(content)
    )


def strokes(lines: Iterable[tuple[float, float, float, float]], *, colour: str = LINE, kind: str = "grid") -> Markup:
    """Return straight lines (x1, y1, x2, y2) as one shape."""
    path = "".join(f"M{x1:.1f},{y1:.1f}L{x2:.1f},{y2:.1f}" for x1, y1, x2, y2 in lines)
    return Markup('<path d="{}" stroke="{}" class="{}"/>').format(path, colour, kind)


def tooltip(line: int, content: str, shapes: Markup) -> Markup:
    """Attach a tooltip to shapes; the last shape marks the position."""
    return Markup('<g data-line="{}"><title>{}</title>{}</g>').format(line, content, shapes)


def png_uri(picture: Image.Image) -> str:
    """Return an image as a data URI."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
