"""Match the labels of the data to the classes of the model."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from auditor.errors import BadInput
from auditor.findings.formatting import counted
from auditor.printable import original

ALPHABETICAL = "the label names of the data in alphabetical order"
INDICES = "the labels of the data, which are class indices"

_NUMBER = re.compile(r"\+?0*([0-9]{1,18})(?:\.0*)?")


@dataclass(frozen=True, kw_only=True)
class MatchedLabels:
    """Labels as class indices, and the class names with the source of their order."""

    indices: list[int]
    classes: list[str]
    source: str = ""
    """Where the order of the classes comes from; empty if it was known before."""
    warning: str = ""


def match_labels(
    names: Sequence[str], classes: Sequence[str] | None, n_classes: int, *, known: Sequence[str] | None = None
) -> MatchedLabels:
    """Match every label to a class.

    Names are compared in Unicode normal form C. ``1``, ``1.0`` and ``01`` are the same number. A number is a class
    index only if no class name is a number. Without known class names, numbers are indices; other names are taken in
    alphabetical order (the order of a folder per class) if there are exactly ``n_classes``.

    Args:
        names: one label per image.
        classes: class names in the order of the scores; None if they are not known.
        n_classes: number of classes of the model.
        known: all labels of the data, if ``names`` are those of a sample, which may lack classes.

    Raises:
        BadInput: for a label without a class.
    """
    distinct = sorted({*names, *(known or ())} if classes is None else set(names), key=_natural)
    if classes is None and all(number_of(name) is not None for name in distinct):
        return _by_index(names, distinct, n_classes)
    if classes is None:
        # folder readers sort file names, not their escapes
        ordered = sorted({normal(name) for name in distinct}, key=original)
        if len(ordered) != n_classes:
            raise BadInput(
                f"the data has {counted(len(ordered), 'label')} ({_listed(ordered)}) and the model {n_classes} unnamed"
                " classes, so they cannot be matched; give the names in the order of the model's outputs with"
                " --classes, or under [output] classes in the sidecar MODEL.audit.toml"
            )
        found = _by_name(names, distinct, ordered)
        warning = (
            f"Nothing states the order of the classes: {ALPHABETICAL} were assumed ({_listed(ordered, 4)}). A wrong"
            " order makes every accuracy wrong; give the names in the order of the model's outputs with --classes."
        )
        return MatchedLabels(indices=found, classes=ordered, source=ALPHABETICAL, warning=warning)
    return MatchedLabels(indices=_by_name(names, distinct, list(classes)), classes=list(classes))


def normal(name: str) -> str:
    """Return a name in Unicode normal form C without surrounding spaces."""
    return unicodedata.normalize("NFC", name.strip())


def number_of(name: str) -> int | None:
    """Return the whole number that a label writes (``7``, ``07``, ``7.0``), or None."""
    match = _NUMBER.fullmatch(name.strip())
    return int(match[1]) if match else None


def _by_index(names: Sequence[str], distinct: Sequence[str], n_classes: int) -> MatchedLabels:
    """Take labels as class indices."""
    numbers = {name: number_of(name) or 0 for name in distinct}
    beyond = [name for name in distinct if numbers[name] >= n_classes]
    if beyond:
        least, most = min(numbers.values()), max(numbers.values())
        hint = ""
        if least == 1 and most == n_classes:
            hint = (
                f"; if label 1 is the first class, give --classes {','.join(map(str, range(1, min(n_classes, 3) + 1)))}"
            )
            hint += ",..." if n_classes > 3 else ""
        raise BadInput(
            f"label {beyond[0]!r}: the model has no class for it; its {n_classes} classes have the indices 0 to"
            f" {n_classes - 1}{hint}"
        )
    classes = [str(i) for i in range(n_classes)]
    warning = (
        f"Nothing states the order of the classes: the labels of the data were taken as class indices, 0 to"
        f" {n_classes - 1}. State the class names with --classes to be sure."
    )
    return MatchedLabels(indices=[numbers[name] for name in names], classes=classes, source=INDICES, warning=warning)


def _by_name(names: Sequence[str], distinct: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Match labels to class names, or to indices if no class name is a number."""
    by_name = {normal(name): i for i, name in enumerate(classes)}
    by_number = {number: i for i, name in enumerate(classes) if (number := number_of(name)) is not None}
    index: dict[str, int] = {}
    for name in distinct:
        number = number_of(name)
        if normal(name) in by_name:
            index[name] = by_name[normal(name)]
        elif number is not None and number in by_number:
            index[name] = by_number[number]
        elif number is not None and not by_number and number < len(classes):
            index[name] = number
        else:
            raise BadInput(_no_class(name, classes, numeric=bool(by_number)))
    return [index[name] for name in names]


def _no_class(name: str, classes: Sequence[str], *, numeric: bool) -> str:
    """Say that a label has no class, with the most similar class name."""
    folded = {normal(known).casefold(): known for known in classes}
    similar = folded.get(normal(name).casefold())
    if similar is None:
        close = difflib.get_close_matches(normal(name).casefold(), folded, n=1)
        similar = folded[close[0]] if close else None
    hint = f" (did you mean {similar!r}?)" if similar is not None else ""
    indices = "" if numeric else f" (or their indices 0 to {len(classes) - 1})"
    return (
        f"label {name!r}: the model has no class for it{hint}; its {len(classes)} classes are"
        f" {_listed(classes)}{indices}"
    )


def _natural(name: str) -> tuple[int, int, str]:
    """Sort numbers by value, before other names."""
    number = number_of(name)
    return (0, number, name) if number is not None else (1, 0, name)


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
