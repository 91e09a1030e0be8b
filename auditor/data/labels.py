"""Match the data's label names to the model's classes."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.errors import BadInput


def match_labels(names: Sequence[str], classes: Sequence[str] | None, n_classes: int) -> tuple[list[int], list[str]]:
    """The class index of every label, and the class names.

    Labels are class names or class numbers. Without known class names, numbers stand for themselves and exactly
    ``n_classes`` names are taken in alphabetical order (the order of a folder per class).

    Raises BadInput for a label that the model has no class for.
    """
    distinct = sorted(set(names), key=lambda name: (len(name), name) if _is_number(name) else (0, name))
    if classes is None and not all(_is_number(name) for name in distinct):
        if len(distinct) != n_classes:
            raise BadInput(
                f"the data has {len(distinct)} labels ({_some(distinct)}) and the model {n_classes} unnamed classes,"
                " so it is not known which is which; name the classes under [output] classes in the sidecar"
                " MODEL.audit.toml"
            )
        classes = sorted(distinct)
    known = [str(i) for i in range(n_classes)] if classes is None else list(classes)
    index = {name: i for i, name in enumerate(known)}
    for name in distinct:
        if name in index:
            continue
        if _is_number(name) and int(name) < n_classes:
            index[name] = int(name)
        else:
            raise BadInput(
                f"label {name!r}: the model has no class for it; its {n_classes} classes are {_some(known)}"
                f" (or their numbers 0 to {n_classes - 1})"
            )
    return [index[name] for name in names], known


def _is_number(name: str) -> bool:
    """Whether a label is a class number; not what else Python takes for digits, nor more of them than it reads."""
    return name.isascii() and name.isdigit() and len(name) < 20


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
