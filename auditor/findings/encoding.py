"""Encode findings and metrics as JSON values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from auditor.findings.metric import Metric


def plain(value: Any, *, exact: bool = False) -> Any:
    """Return the JSON form of a value.

    Dataclasses become objects, arrays lists, non-finite numbers null; floats keep six digits, or all if ``exact``.
    Raises TypeError for anything else.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Metric) and value.clean is None:
            del values["clean"]
        return {name: plain(item, exact=exact) for name, item in values.items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item, exact=exact) for key, item in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # digits beyond the sixth are rounding of the runtime, not the model
        return value if exact else float(f"{value:.6g}")
    if hasattr(value, "tolist"):
        return plain(value.tolist(), exact=exact)
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item, exact=exact) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be stored in audit.json")
