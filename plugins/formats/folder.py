"""Folders of images: one sub-folder per class, or flat without labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    from auditor.data.dataset import Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


@hookimpl
def auditor_open_images(path: Path) -> Source | None:
    """Open folders."""
    return _open(path) if path.is_dir() else None


def _open(path: Path) -> Source:
    from auditor.data.dataset import Source

    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    flat = _image_files(path.iterdir(), path)
    classes = {folder: _image_files(folder.rglob("*"), folder) for folder in folders}
    if flat and any(classes.values()):
        raise BadInput(
            f"{path}: contains {len(flat)} images next to {len(folders)} folders; expected a folder per class, or only"
            " images"
        )
    if flat:
        return Source(path=str(path), ids=[file.name for file in flat], read=_reader(flat))
    files = [file for members in classes.values() for file in members]
    if not files:
        raise BadInput(
            f"{path}: found no images; expected {', '.join(sorted(SUFFIXES))} in it or in a folder per class"
        )
    return Source(
        path=str(path),
        ids=[file.relative_to(path).as_posix() for file in files],
        labels=[folder.name for folder, members in classes.items() for _ in members],
        read=_reader(files),
    )


def _image_files(entries: Iterable[Path], root: Path) -> list[Path]:
    """Return the image files, sorted, without hidden ones (``._x.jpg`` of macOS archives, ``.thumbnails/x.jpg``)."""
    return sorted(
        entry
        for entry in entries
        if entry.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in entry.relative_to(root).parts)
        and entry.is_file()
    )


def _reader(files: list[Path]) -> Any:
    from auditor.data.resizing import read_file

    return lambda index: read_file(files[index])
