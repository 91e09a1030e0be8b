"""Recognise the parts of a data set (train, val, test) above the class folders, and choose the one to audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from auditor import BadInput

if TYPE_CHECKING:
    from auditor.plugins.formats._folder_scan import Scan

_KINDS = {
    "test": ("test", "testing", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev"),
    "train": ("train", "training"),
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names}


def choose_part(path: PurePath, found: Scan) -> str | None:
    """Return the sub-folder to audit, the test part or else the validation part; None if the folder has no parts.

    Folders are parts if all of them are called like one and hold folders of images. A class called test next to other
    classes is a class.

    Raises:
        BadInput: if it is not clear which images to audit.
    """
    filled = {name: folder for name, folder in found.folders.items() if folder.everything}
    parts = {name: folder for name, folder in filled.items() if name.casefold() in _KIND}
    if not parts or found.images:
        return None
    others = {name: folder for name, folder in filled.items() if name not in parts}
    if others:
        _check_classes(path, parts, others)
        return None
    flat = [name for name, folder in parts.items() if folder.images]
    if flat:
        raise BadInput(
            f"{path}: contains images in {_listed(flat)}, which may be classes, or parts of a data set without labels;"
            f" pass one part with --data {path / flat[0]}, or name the labels in a .csv manifest"
        )
    return best_part(path, {name: path / name for name in parts})


def is_part(name: str) -> bool:
    """Whether a name is that of a part of a data set, such as train."""
    return name.casefold() in _KIND


def best_part(path: PurePath, parts: Mapping[str, PurePath]) -> str:
    """Return the test part of a data set, or else the validation part.

    Args:
        path: The data set, for the message.
        parts: A path to pass instead, by the name of its part.

    Raises:
        BadInput: if several parts could be meant, or there is neither of the two.
    """
    for kind in ("test", "val"):
        chosen = [name for name in parts if _KIND.get(name.casefold()) == kind]
        if len(chosen) > 1:
            one = parts[chosen[0]]
            raise BadInput(f"{path}: contains {_listed(chosen)}; pass the one to audit, such as --data {one}")
        if chosen:
            return chosen[0]
    unknown = [each for name, each in parts.items() if not is_part(name)]
    if unknown:
        raise BadInput(f"{path}: contains {_listed(list(parts))}; pass the one to audit, such as --data {unknown[0]}")
    raise BadInput(
        f"{path}: contains only training images ({_listed(list(parts))}), on which a model is better than on new ones;"
        f" expected a test or val part; to audit training images, pass --data {next(iter(parts.values()))}"
    )


def _check_classes(path: PurePath, parts: dict[str, Scan], others: dict[str, Scan]) -> None:
    """Raise BadInput if a folder next to ``parts`` holds the same classes, so that it is a part, too."""
    for name, part in parts.items():
        for other, folder in others.items():
            shared = sorted(inner for inner in folder.folders if inner in part.folders)
            if shared and not part.images and not folder.images:
                raise BadInput(
                    f"{path}: {name} and {other} hold the same folders ({_listed(shared)}), so they seem to be parts of"
                    f" a data set; pass the one to audit, such as --data {path / name}"
                )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
