"""Other orders of the classes that are common mistakes, as mappings of labels to model outputs.

A mapping is an array ``(k,)``: entry ``i`` is the model output that label ``i`` would mean. The identity is the order
in use. The data alone shows which mapping fits (``auditor/probes/class_orders.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from auditor.printable import original

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mapping = NDArray[np.int64]

_DIGITS = re.compile(r"([0-9]+)")


def common_orders(classes: Sequence[str]) -> dict[str, Mapping]:
    """Return the common alternatives to the order of ``classes``, without those that are equal to it or to another.

    Sorted names are what folder readers of training libraries produce: alphabetical (``0, 1, 10, 2``), natural
    (``0, 1, 2, 10``) or without regard to case. Two classes can be reversed. An offset of one comes from a background
    class in front, or from labels that start at 1.
    """
    import numpy as np

    k = len(classes)
    count = np.arange(k)
    found: dict[str, Mapping] = {
        "alphabetical order": _sorted_by(classes, original),
        "natural order": _sorted_by(classes, lambda name: natural_key(original(name))),
        "alphabetical order without regard to case": _sorted_by(classes, lambda name: original(name).casefold()),
    }
    if k == 2:
        found["the reverse order"] = count[::-1].copy()
    else:
        found["every class one output later"] = (count + 1) % k
        found["every class one output earlier"] = (count - 1) % k
    distinct: dict[str, Mapping] = {}
    for name, mapping in found.items():
        if not any(np.array_equal(mapping, other) for other in (count, *distinct.values())):
            distinct[name] = mapping
    return distinct


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return the sort key under which numbers within names count by value: ``img2`` before ``img10``."""
    parts = _DIGITS.split(name)
    return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part]


def reordered(classes: Sequence[str], mapping: Mapping) -> list[str]:
    """Return the class names in the order of the model outputs under ``mapping``: what ``--classes`` should list."""
    names = [""] * len(classes)
    for name, output in zip(classes, mapping, strict=True):
        names[output] = name
    return names


def _sorted_by(classes: Sequence[str], key: Callable[[str], object]) -> Mapping:
    import numpy as np

    order = sorted(range(len(classes)), key=lambda i: (key(classes[i]), classes[i]))
    mapping = np.empty(len(classes), dtype=np.int64)
    mapping[order] = np.arange(len(classes))
    return mapping
