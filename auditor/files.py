"""Read files that others may have changed, write files whole or not at all, and compute digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from auditor.errors import BadInput

ASIDE = ".*.part"
"""Files that are still being written."""

_DIGITS = 300
"""Digits of a whole number in JSON; more are no float64."""


def digest(content: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(target: Path, content: bytes | memoryview, *, durable: bool = True) -> Path:
    """Write a file: aside, flushed, then renamed, so that it is there whole or not at all.

    One that is not ``durable`` is left to the system to flush; a power failure may damage it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if os.fstat(file.fileno()).st_size != len(content):
                # some network file systems accept less than they are given
                raise OSError(errno.EIO, "fewer bytes were written than given", str(target))
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def inside(folder: Path, name: str | os.PathLike[str]) -> Path:
    """Return the path of a file in a folder. Raises BadInput if it leads out of the folder or is a FIFO or a device.

    A folder from someone else may hold a link to a private file, or to a device that never ends. A missing file is no
    error.
    """
    path = folder / name
    try:
        found = path.resolve()
        if not found.is_relative_to(folder.resolve()):
            raise BadInput(f"{path}: leads out of {folder}; expected a file in it; remove the link")
        if found.exists() and not found.is_file() and not found.is_dir():
            raise BadInput(f"{path}: is neither a file nor a folder; remove it")
    except (OSError, RuntimeError, ValueError) as error:
        # a loop of links, a name that is too long or has a zero byte
        raise BadInput(f"{path}: not a usable path ({error})") from None
    return path


def read_inside(folder: Path, name: str | os.PathLike[str]) -> bytes:
    """Read a file in a folder. Raises BadInput as ``inside`` does, and OSError if it cannot be read."""
    return inside(folder, name).read_bytes()


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits; expected at most {_DIGITS}")
    return int(digits)


def parse_json(content: bytes | str, where: str, *, allow_nan: bool = False) -> Any:
    """Parse JSON that can be written again: without lone surrogates, NaN and infinity, unless ``allow_nan``.

    Raises BadInput otherwise, also for JSON that is nested too deeply.
    """
    try:
        value = json.loads(content, parse_int=_whole)
        json.dumps(value, ensure_ascii=False, allow_nan=allow_nan).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not readable as JSON: {error}") from None
    return value
