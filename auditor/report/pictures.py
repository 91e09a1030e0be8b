"""Evidence images as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from auditor.files import inside
from auditor.report.svg import png_uri

SMALL = 64
"""Images up to this side length in pixels are embedded without loss and enlarged without smoothing."""

THUMBNAIL = 224
"""Longest side of an embedded larger image; the lossless file stays in the run folder."""


@dataclass(frozen=True)
class Embedded:
    """An image as a data URI."""

    uri: str
    pixelated: bool
    """True if it is to be enlarged without smoothing."""


@dataclass
class Pictures:
    """Read evidence files into data URIs, each file once."""

    run: Path
    paper: bool
    _known: dict[str, Embedded | None] = field(default_factory=dict)

    def __call__(self, file: str) -> Embedded | None:
        """Return the image, or None if the file is missing or unreadable."""
        if file not in self._known:
            try:
                self._known[file] = self._read(inside(self.run, file))
            except Exception:
                # decoders raise anything for damaged files
                self._known[file] = None
        return self._known[file]

    def _read(self, path: Path) -> Embedded:
        with Image.open(path) as stored:
            small = max(stored.size) <= SMALL
            picture = _on_white(stored)
        if not small:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            return Embedded(_jpeg_uri(picture), False)
        if self.paper:
            # PDF viewers smooth every image that they enlarge
            factor = max(1, 2 * SMALL // max(picture.size))
            size = (picture.width * factor, picture.height * factor)
            picture = picture.resize(size, Image.Resampling.NEAREST)
        return Embedded(png_uri(picture), True)


def _on_white(picture: Image.Image) -> Image.Image:
    """Convert to RGB; transparent areas become white."""
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    transparent = picture.convert("RGBA")
    background = Image.new("RGBA", transparent.size, "white")
    return Image.alpha_composite(background, transparent).convert("RGB")


def _jpeg_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
