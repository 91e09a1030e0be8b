"""Decoded images at the input size of the model, on disk: for data that does not fit into memory, or is far away.

A file for each image, named after the digest of its bytes. It ends with the digest of the pixels, so that a damaged one
is made again. Processes and audits share a folder.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.files import write_whole

_CHECK = 16
"""Bytes of the digest at the end of a file."""


class PixelCache:
    """The images that were read in one way: at one size, with one kind of resizing."""

    def __init__(self, folder: Path, key: str) -> None:
        """``key`` is a digest of the way in which images are read."""
        self._folder = folder / key[:_CHECK]
        self.failure = ""
        """Why images are no longer written, for example because the disk is full; empty while they are."""

    def get(self, digest: str) -> NDArray[Any] | None:
        """Return the pixels of the image with this digest, (c, h, w); None if they are not there or damaged."""
        try:
            content = self._path(digest).read_bytes()
        except OSError:
            return None
        stored, check = content[:-_CHECK], content[-_CHECK:]
        if _digest(stored) != check:
            return None
        pixels: NDArray[Any] = np.load(io.BytesIO(stored), allow_pickle=False)
        return pixels

    def put(self, digest: str, pixels: NDArray[Any]) -> None:
        """Store the pixels of an image."""
        if self.failure:
            return
        content = io.BytesIO()
        np.save(content, pixels, allow_pickle=False)
        stored = content.getvalue()
        try:
            # flushing takes as long as decoding, and the digest finds what a power failure damaged
            write_whole(self._path(digest), stored + _digest(stored), durable=False)
        except OSError as error:
            self.failure = f"{self._folder}: {error.strerror or error}"

    def _path(self, digest: str) -> Path:
        # a folder with a million files is slow on many file systems
        return self._folder / digest[:2] / f"{digest[2:]}.npy"


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECK).digest()
