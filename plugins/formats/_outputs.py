"""Which output of a model holds the class scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auditor import BadInput


def choose_output(path: Path, names: Sequence[str], wanted: str) -> int:
    """Return the number of the output that is called ``wanted``, or of the only one if ``wanted`` is empty.

    Raises:
        BadInput: if no output has this name, or if several could be meant.
    """
    if wanted and wanted not in names:
        raise BadInput(f"{path}: --output {wanted}: no such output; the model has {', '.join(names)}")
    if len(names) > 1 and not wanted:
        raise BadInput(
            f"{path}: the model has {len(names)} outputs ({', '.join(names)}); state with --output NAME which one"
            " contains the class scores"
        )
    return names.index(wanted) if wanted else 0
