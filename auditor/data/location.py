"""Where data is: a path on this machine, or the URI of files elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from auditor.errors import BadInput

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
"""At least two letters before the colon: one letter is a drive of Windows."""

_SECRET = re.compile(r"(?<=://)[^/@\s]*@")


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
        return without_secrets(self)


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


def without_secrets(text: str) -> str:
    """Return a text without the users and passwords of the addresses in it."""
    return _SECRET.sub("", text)


@contextmanager
def called(uri: Uri, path: PurePath) -> Iterator[None]:
    """Name the address instead of a path that stands for it in what BadInput says."""
    try:
        yield
    except BadInput as error:
        raise BadInput(str(error).replace(str(path), uri.shown)) from None


def shown(location: Path | Uri) -> str:
    """Return a location for messages and reports."""
    return location.shown if isinstance(location, Uri) else str(location)
