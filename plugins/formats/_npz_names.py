"""Find the images and the labels in a NumPy archive by the names that people give them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from auditor import BadInput

_PAIRS = (("images", "labels"), ("x", "y"), ("data", "labels"))
_PARTS = ("test", "val", "train")
_STYLES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"))

EXPECTED = (
    "expected images and labels, x and y, data and labels, or parts of a data set such as x_test and y_test; the labels"
    " are optional"
)


class Names(NamedTuple):
    """The arrays to read."""

    images: str
    labels: str | None
    others: Sequence[str] = ()
    """Arrays of other parts of the data set, which are not read."""


def choose(path: Path, arrays: Collection[str]) -> Names:
    """Return the names of the arrays with images and labels; case does not matter.

    Of a data set with parts, the test part is chosen, else the validation part.

    Raises:
        BadInput: with the names of all arrays, if none or more than one could be meant.
    """
    folded: dict[str, str] = {}
    for name in arrays:
        if name.casefold() in folded:
            raise BadInput(f"{path}: contains {folded[name.casefold()]} and {name}; {EXPECTED}")
        folded[name.casefold()] = name
    whole = {images: labels for images, labels in _PAIRS if images in folded}
    parts = {
        part: (style[0].format(part), style[1].format(part))
        for style in _STYLES
        for part in _PARTS
        if style[0].format(part) in folded
    }
    styles = [style for style in _STYLES if any(style[0].format(part) in folded for part in _PARTS)]
    if len(whole) + len(styles) != 1:
        raise BadInput(f"{path}: contains {_listed(arrays)}; {EXPECTED}")
    if whole:
        ((images, labels),) = whole.items()
        return Names(folded[images], folded.get(labels))
    part = next(part for part in _PARTS if part in parts)
    if part == "train":
        raise BadInput(
            f"{path}: contains only training images ({_listed(arrays)}), on which a model is better than on new ones;"
            " expected a test or val part; to audit training images, save them as images and labels"
        )
    others = [folded[name] for other, pair in parts.items() if other != part for name in pair if name in folded]
    images, labels = parts[part]
    return Names(folded[images], folded.get(labels), others)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
