"""Find the images in a folder and its sub-folders, and name everything else."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

_SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
"""Files with these endings are images; if one cannot be decoded, it is reported as unreadable."""

_FORMATS = ("AVIF", "BMP", "DDS", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP")
"""Formats of Pillow that begin with a signature, so that no other file is mistaken for one."""


@dataclass
class Scan:
    """The visible content of a folder, sorted by name."""

    images: list[Path] = field(default_factory=list)
    folders: dict[str, Scan] = field(default_factory=dict)

    @property
    def everything(self) -> list[Path]:
        """All images in the folder and its sub-folders, sorted by path."""
        files = [*self.images, *(file for folder in self.folders.values() for file in folder.everything)]
        # the order of paths; comparing them one by one takes seconds for 100,000
        return sorted(files, key=lambda file: file.parts)


def scan(path: Path, skipped: dict[str, list[str]]) -> Scan:
    """Return the content of a folder, and add what is left out to ``skipped``: names by reason."""
    return _scan(path, path, skipped)


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
