"""Folders of images: one sub-folder per class, or flat without labels; or with parts (train, val, test) above these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from auditor import BadInput, hookimpl
from auditor.plugins.formats._files import Files, LocalFiles
from auditor.plugins.formats._folder_parts import choose_part
from auditor.plugins.formats._folder_scan import Scan, scan

if TYPE_CHECKING:
    from pathlib import PurePath

    from auditor.data.dataset import Source

_Folder = TypeVar("_Folder", bound="PurePath")

_NAMED = 3
"""Sub-folders that a warning names."""


@hookimpl
def auditor_open_images(path: Path) -> Source | None:
    """Open folders."""
    return open_folder(path, scan, LocalFiles) if path.is_dir() else None


def open_folder(
    path: _Folder, scan: Callable[[_Folder, dict[str, list[str]]], Scan], files: Callable[[_Folder], Files]
) -> Source:
    """Return the images of a folder; ``scan`` and ``files`` look into it and read from it."""
    skipped: dict[str, list[str]] = defaultdict(list)
    found = scan(path, skipped)
    part = choose_part(path, found)
    if part is None:
        return _source(path, files(path), found, skipped, [])
    others = ", ".join(name for name in found.folders if name != part)
    assumption = (
        f"The data folder has parts, and the part {part} was audited{f', not {others}' if others else ''}. This is an"
        f" assumption from the names; to audit other images, pass their folder with --data, such as {path / part}."
    )
    inside: dict[str, list[str]] = defaultdict(list)
    chosen = scan(path / part, inside)
    for why, names in skipped.items():
        inside[why] += [f"../{name}" for name in names if "/" not in name]
    return _source(path / part, files(path / part), chosen, inside, [assumption])


def _source(
    path: PurePath, files: Files, found: Scan, skipped: Mapping[str, Sequence[str]], warnings: list[str]
) -> Source:
    """Return the source of a folder per class, or of a flat folder."""
    from auditor.data.dataset import Source

    classes = {name: folder.everything for name, folder in found.folders.items()}
    empty = [name for name, inside in classes.items() if not inside]
    if empty:
        skipped = {**skipped, "folder without images": empty}
    if found.images and any(classes.values()):
        raise BadInput(
            f"{path}: contains {len(found.images)} images next to {len(classes) - len(empty)} folders of images;"
            " expected a folder per class, or only images"
        )
    if not found.images and not any(classes.values()):
        raise BadInput(f"{path}: found no images; expected images (.png, .jpg, ...) in it or in a folder per class")
    if found.images:
        images, labels = found.images, None
    else:
        images = [image for inside in classes.values() for image in inside]
        labels = [name for name, inside in classes.items() for _ in inside]
        warnings = [*warnings, *_nested(path, found)]
    # a path object takes several times the memory of its name
    depth = len(path.parts)
    names = ["/".join(image.parts[depth:]) for image in images]
    return Source(
        path=str(path),
        ids=names,
        labels=labels,
        read=lambda index: files.read(names[index]),
        stamp=lambda index: files.stamp(names[index]),
        warnings=warnings,
        skipped=skipped,
    )


def _nested(path: PurePath, found: Scan) -> list[str]:
    """Return a warning if class folders have folders of images: these have the label of the class folder."""
    parents = dict.fromkeys(
        file.parent.relative_to(path).as_posix()
        for folder in found.folders.values()
        for inner in folder.folders.values()
        for file in inner.everything
    )
    if not parents:
        return []
    n = sum(len(inner.everything) for folder in found.folders.values() for inner in folder.folders.values())
    more = ", ..." if len(parents) > _NAMED else ""
    return [
        f"{n} images are in sub-folders of class folders ({', '.join(list(parents)[:_NAMED])}{more}); they have the"
        " label of the class folder."
    ]
