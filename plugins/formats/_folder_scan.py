"""Find the images in a folder and its sub-folders, and name everything else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

_SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
"""Files with these endings are images; if one cannot be decoded, it is reported as unreadable."""

_FORMATS = ("AVIF", "BMP", "DDS", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")
"""Formats of Pillow that begin with a signature, so that no other file is mistaken for one."""


@dataclass
class Scan:
    """The visible content of a folder, sorted by name."""

    images: list[PurePath] = field(default_factory=list)
    folders: dict[str, Scan] = field(default_factory=dict)

    @property
    def everything(self) -> list[PurePath]:
        """All images in the folder and its sub-folders, sorted by path."""
        files = [*self.images, *(file for folder in self.folders.values() for file in folder.everything)]
        # the order of paths; comparing them one by one takes seconds for 100,000
        return sorted(files, key=lambda file: file.parts)


def scan(path: Path, skipped: dict[str, list[str]]) -> Scan:
    """Return the content of a folder, and add what is left out to ``skipped``: names by reason."""
    return _scan(path, path, skipped)


def scan_names(folder: PurePosixPath, names: Sequence[str], skipped: dict[str, list[str]]) -> Scan:
    """Return the same for files of which only the names are known, relative to ``folder`` and sorted as paths are.

    A file is taken for an image by the ending of its name.
    """
    found = Scan()
    for name in names:
        *folders, last = name.split("/")
        hidden = next((i for i, part in enumerate((*folders, last)) if part.startswith(".")), None)
        if hidden is not None:
            above = "/".join((*folders, last)[: hidden + 1])
            if above not in skipped["hidden"][-1:]:
                skipped["hidden"].append(above)
            continue
        inner = found
        for part in folders:
            inner = inner.folders.setdefault(part, Scan())
        if PurePosixPath(last).suffix.lower() in _SUFFIXES:
            inner.images.append(folder / name)
        else:
            skipped["not an image"].append(name)
    return found


def _scan(folder: Path, root: Path, skipped: dict[str, list[str]]) -> Scan:
    found = Scan()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.name.startswith("."):
            # ._x.jpg of macOS archives, .thumbnails/x.jpg
            skipped["hidden"].append(_name(path, root))
        elif entry.is_symlink() and not path.exists():
            skipped["broken symbolic link"].append(_name(path, root))
        elif entry.is_dir():
            if entry.is_symlink() and folder != root:
                # it may lead to a folder above
                skipped["symbolic link to a folder"].append(_name(path, root))
            else:
                found.folders[entry.name] = _scan(path, root, skipped)
        elif not entry.is_file():
            skipped["not a file"].append(_name(path, root))
        elif path.suffix.lower() in _SUFFIXES or _is_image(path):
            found.images.append(path)
        else:
            skipped["not an image"].append(_name(path, root))
    return found


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_image(path: Path) -> bool:
    """Test whether the content of a file is that of an image."""
    from PIL import Image

    Image.init()
    try:
        with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]):
            return True
    except Exception:
        # decoders raise anything for files of other kinds
        return False
