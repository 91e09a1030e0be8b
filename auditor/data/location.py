"""Where data is: a path on this machine, or the URI of files elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
"""At least two letters before the colon: one letter is a drive of Windows."""

_SECRET = re.compile(r"(?<=://)[^/@]*@")


class Uri(str):
    """The address of data elsewhere, such as ``s3://bucket/images``; ``auditor_open_uri`` opens it."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The last part, such as ``images``."""
        return PurePosixPath(self).name

    @property
    def shown(self) -> str:
        """The address without user and password, for messages and reports."""
        return _SECRET.sub("", self)


def is_uri(text: str) -> bool:
    """Whether a text is the address of something elsewhere, and not a path."""
    return _SCHEME.match(text) is not None


def locate(text: str | os.PathLike[str]) -> Path | Uri:
    """Return the path or URI that a text states; ``file://`` is a path on this machine."""
    stated = os.fspath(text)
    if not is_uri(stated):
        return Path(stated)
    if stated.lower().startswith("file://") and "::" not in stated:
        return Path(unquote(urlsplit(stated).path))
    return Uri(stated)


def shown(location: Path | Uri) -> str:
    """Return a location for messages and reports."""
    return location.shown if isinstance(location, Uri) else str(location)
