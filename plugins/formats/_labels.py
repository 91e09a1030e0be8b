"""Labels of images: all images have one, or none has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auditor import BadInput


def labelled(path: Path, missing: Sequence[str], n: int, kind: str) -> bool:
    """Whether the images have labels.

    Args:
        path: The data, for the message.
        missing: The names of those without a label.
        n: Number of all.
        kind: What they are called in the plural.

    Raises:
        BadInput: if only some have one.
    """
    if 0 < len(missing) < n:
        raise BadInput(
            f"{path}: {len(missing)} of {n} {kind} have no label, the first is {missing[0]}; label all images or none"
        )
    return len(missing) < n
