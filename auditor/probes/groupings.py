"""Divide images into groups: by the data's columns, in bands, and crossed in pairs."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

AGES = (18, 30, 45, 60)
"""Lower ends of the age bands in years, after the first band."""

_MAX_DISCRETE = 12
"""A numeric column with more distinct values is continuous and is divided into bands."""

_MAX_CROSSED = 12
"""Columns with more values are not crossed with others."""


def groupings(frame: pd.DataFrame, *, cross: bool = True) -> dict[str, pd.Series]:
    """Return the columns ``group:*`` of records as text, by name without the prefix.

    Continuous columns are divided into bands. With ``cross``, columns of 2 to 12 values are also combined in pairs.
    """
    found = {
        str(name).removeprefix("group:"): _banded(str(name), frame[name])
        for name in frame.columns
        if str(name).startswith("group:")
    }
    if cross:
        crossable = [name for name, values in found.items() if 2 <= values.nunique() <= _MAX_CROSSED]
        for one, other in combinations(crossable, 2):
            found[f"{one} x {other}"] = found[one] + ", " + found[other]
    return found


def _banded(name: str, values: pd.Series) -> pd.Series:
    """Divide ages at ``AGES`` and other continuous columns at their quartiles; return other columns as text."""
    import numpy as np
    import pandas as pd

    from auditor.data.dataset import NO_VALUE

    text = values.astype(str)
    missing = text == NO_VALUE
    numbers = pd.to_numeric(text.where(~missing), errors="coerce")
    continuous = numbers.nunique() > _MAX_DISCRETE and bool((numbers.notna() | missing).all())
    if not continuous:
        return text
    age = "age" in name.lower().replace("image", "")
    cuts = np.array(AGES) if age else np.unique(np.quantile(numbers.dropna(), [0.25, 0.5, 0.75]))
    names = _band_names([f"{cut:.4g}" for cut in cuts])
    bands = [names[i] for i in np.searchsorted(cuts, numbers.fillna(0), side="right")]
    return pd.Series(bands, index=values.index).where(numbers.notna(), NO_VALUE)


def _band_names(edges: list[str]) -> list[str]:
    inner = [f"{low} to below {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *inner, f"{edges[-1]} and over"]
