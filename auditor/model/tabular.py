"""Tabular data: the columns of a table, and the space in which rows of features are perturbed.

A row is an array ``(features,)`` with values in [0, 1]: 0 is the smallest value of the feature in the table, 1 the
largest. So an epsilon is a fraction of the range of every feature, and no perturbation leaves the observed range. A
feature with whole numbers only is rounded to whole numbers before the model receives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Source
from auditor.errors import BadInput
from auditor.model.preprocessing import device_constant

_SAME = 1e-7
"""Largest difference of equal values, as a fraction of the range: float32 in [0, 1] and back errs by half of this."""

_BACKGROUND = 100
"""Number of background rows; the default of shap's maskers."""


class Feature(NamedTuple):
    """A column that the model takes."""

    name: str
    low: float
    high: float
    deviation: float
    """Standard deviation over the table."""
    whole: bool
    """Whether all values are whole numbers."""


@dataclass(frozen=True, kw_only=True)
class TabularPreprocessing:
    """From features in [0, 1] to the features' own units."""

    features: tuple[Feature, ...]
    dtype: str = "float32"
    values: tuple[NDArray[np.float64], ...] = field(default=(), repr=False, compare=False)
    """Sorted values of each feature in the table. Trees split between them, so they must be restored exactly."""
    background: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32), repr=False, compare=False
    )
    """At most 100 rows of the table, evenly spaced, (m, features) in [0, 1]: the reference of explanations."""
    layout: Literal["rows"] = field(default="rows", init=False)

    @property
    def shape(self) -> tuple[int]:
        """(features,)"""
        return (len(self.features),)

    def apply(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """Convert rows (n, features) in [0, 1] to the input of the deployed model, (n, features)."""
        rows = self._low + pixels.astype(np.float64) * self._range
        for i, known in enumerate(self.values):
            near = np.clip(np.searchsorted(known, rows[:, i]), 1, max(1, len(known) - 1))
            below, above = known[near - 1], known[np.minimum(near, len(known) - 1)]
            nearest = np.where(rows[:, i] - below < above - rows[:, i], below, above)
            rows[:, i] = np.where(np.abs(rows[:, i] - nearest) <= _SAME * self._range[i], nearest, rows[:, i])
        whole = [feature.whole for feature in self.features]
        rows[:, whole] = np.rint(rows[:, whole])
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            limits = np.iinfo(self.dtype)
            rows = np.clip(np.rint(rows), limits.min, limits.max)
        return np.ascontiguousarray(rows, dtype=self.dtype)

    def on_device(self, pixels: Any) -> Any:
        """Not supported: exact values are restored on the host."""
        raise NotImplementedError("tabular data is converted on the host")

    def differentiable(self, pixels: Any) -> Any:
        """Like ``apply`` under autograd; whole numbers are scaled but not rounded."""
        import torch

        width, low = (
            device_constant(tuple(values.tolist()), pixels.device, pixels.dtype) for values in (self._range, self._low)
        )
        rows = pixels * width + low
        return rows.to(torch.float16) if self.dtype == "float16" else rows

    @property
    def deviations(self) -> NDArray[np.float32]:
        """(features,) standard deviations as fractions of the ranges."""
        wide = np.where(self._range > 0, self._range, 1)
        return (np.array([feature.deviation for feature in self.features]) / wide).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Describe the features for audit.json."""
        return {
            "layout": self.layout,
            "dtype": self.dtype,
            "range": [float(self._low.min()), float((self._low + self._range).max())],
            "mean": [0.0],
            "std": [1.0],
            "order": "rgb",
            "features": [feature._asdict() for feature in self.features],
        }

    @property
    def _low(self) -> NDArray[np.float64]:
        return np.array([feature.low for feature in self.features], dtype=np.float64)

    @property
    def _range(self) -> NDArray[np.float64]:
        return np.array([feature.high - feature.low for feature in self.features], dtype=np.float64)


def unknown(n: int, dtype: str) -> TabularPreprocessing:
    """Return the preprocessing of a model with ``n`` features and no table: every feature from 0 to 1."""
    features = tuple(Feature(f"feature {i}", 0.0, 1.0, 1.0, whole=False) for i in range(n))
    return TabularPreprocessing(dtype=dtype, features=features)


class _Columns(NamedTuple):
    """The columns of a table by their role."""

    label: str | None
    unit: str | None
    groups: Sequence[str]
    features: Sequence[str]
    numbers: Mapping[str, Any]
    """Every column as numbers; NaN for other values."""


def of_table(
    source: Source,
    n_features: int | None,
    dtype: str,
    *,
    label: str | None,
    groups: Sequence[str] | None,
    features: Sequence[str] | None,
    unit: str | None = None,
) -> tuple[Source, TabularPreprocessing]:
    """Return the rows of a table with their preprocessing.

    Rows without a number in some feature are unreadable: they are named and left out.

    Args:
        source: a source with ``columns``.
        n_features: number of features of the model; None if it is free.
        dtype: input type of the model.
        label: name of the label column; by default the column called label.
        groups: names of the group columns; by default the columns that hold text.
        features: names of the feature columns; by default all other columns, in the order of the table.
        unit: name of the column with the unit of each row; by default the column called unit.

    Raises:
        BadInput: if the columns do not fit the model.
    """
    import pandas as pd

    assert source.columns is not None
    table = {name: pd.Series(values) for name, values in source.columns.items()}
    chosen = _choose_columns(source.path, table, label=label, unit=unit, groups=groups, features=features)
    _check_features(source.path, table, chosen, n_features)
    values = np.stack([chosen.numbers[name].to_numpy(dtype=np.float64) for name in chosen.features], axis=1)
    values = values.astype(np.float32 if dtype in {"float32", "float16"} else np.float64).astype(np.float64)
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        raise BadInput(
            f"{source.path}: every row has a missing or non-numeric feature; expected at least one complete row"
        )
    preprocessing = _fitted(known, chosen.features, dtype)
    used = {chosen.label, *chosen.groups, *chosen.features}
    unused = [name for name in table if name not in used]
    warnings = [f"Columns of {source.path} that are not used: {', '.join(unused)}."] if unused else []
    rows = replace(
        source,
        warnings=[*source.warnings, *warnings],
        read=_reader(values, preprocessing),
        columns=None,
        labels=None if chosen.label is None else _labels(source.path, chosen.label, table[chosen.label]),
        groups={name: _texts(table[name]) for name in chosen.groups},
        units=None if chosen.unit is None else _texts(table[chosen.unit]),
        unit_name=chosen.unit or "unit",
    )
    return rows, preprocessing


def _choose_columns(
    path: str,
    table: Mapping[str, Any],
    *,
    label: str | None,
    unit: str | None,
    groups: Sequence[str] | None,
    features: Sequence[str] | None,
) -> _Columns:
    """Assign a role to every column."""
    import pandas as pd

    label = label or ("label" if "label" in table else None)
    named = {*(groups or ()), *(features or ())}
    unit = unit or ("unit" if "unit" in table and "unit" not in named else None)
    for name in (*([label] if label else []), *([unit] if unit else []), *(groups or ()), *(features or ())):
        if name not in table:
            raise BadInput(f"{path}: has no column {name!r}; it has {', '.join(table)}")
    numbers = {name: pd.to_numeric(column, errors="coerce") for name, column in table.items()}
    if groups is None:
        texts = [name for name, column in table.items() if _holds_text(column, numbers[name])]
        groups = [name for name in texts if name not in {label, unit} and name not in (features or ())]
    if features is None:
        features = [name for name in table if name not in {label, unit} and name not in groups]
    return _Columns(label, unit, groups, features, numbers)


def _check_features(path: str, table: Mapping[str, Any], chosen: _Columns, n_features: int | None) -> None:
    """Raise BadInput for another number of features than the model takes, and for features that hold text."""
    if n_features is not None and len(chosen.features) != n_features:
        raise BadInput(
            f"{path}: has {len(chosen.features)} columns of features ({', '.join(chosen.features) or 'none'}), but the"
            f" model takes {n_features}; name label, unit, groups and, if necessary, features under [data] in the"
            " sidecar"
        )
    for name in chosen.features:
        numbers = chosen.numbers[name]
        if _holds_text(table[name], numbers):
            text = table[name][numbers.isna() & table[name].notna()].iloc[0]
            raise BadInput(
                f"{path}: column {name} holds {text!r}; expected numbers; if it is not a feature of the model, name it"
                " under [data] groups in the sidecar"
            )


def _holds_text(column: Any, numbers: Any) -> bool:
    return bool((numbers.isna() & column.notna()).any())


def _fitted(known: NDArray[np.float64], names: Sequence[str], dtype: str) -> TabularPreprocessing:
    """Return the preprocessing for the ranges of the complete rows (m, features)."""
    columns = [np.unique(column) for column in known.T]
    features = tuple(
        Feature(name, float(c[0]), float(c[-1]), float(column.std()), whole=bool((c == np.rint(c)).all()))
        for name, c, column in zip(names, columns, known.T, strict=True)
    )
    usual = known[np.unique(np.linspace(0, len(known) - 1, _BACKGROUND).astype(int))]
    low, wide = _scale(features)
    background = ((usual - low) / wide).astype(np.float32).clip(0, 1)
    return TabularPreprocessing(dtype=dtype, features=features, values=tuple(columns), background=background)


def _scale(features: Sequence[Feature]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest value and the range of every feature; 1 for a constant feature."""
    low = np.array([feature.low for feature in features])
    return low, np.array([feature.high - feature.low or 1.0 for feature in features])


def _reader(values: NDArray[np.float64], preprocessing: TabularPreprocessing) -> Any:
    """Return ``Source.read`` for rows: the bytes of a row, and the row in [0, 1]."""
    low, wide = _scale(preprocessing.features)

    def read(index: int) -> tuple[bytes, NDArray[Any]]:
        row = values[index]
        if not np.isfinite(row).all():
            name = preprocessing.features[int(np.argmin(np.isfinite(row)))].name
            raise ValueError(f"no number for {name}")
        return row.tobytes(), ((row - low) / wide).astype(np.float32).clip(0, 1)

    return read


def _labels(path: str, name: str, column: Any) -> list[str] | None:
    missing = column.isna()
    if missing.all():
        return None
    if missing.any():
        raise BadInput(f"{path}: {int(missing.sum())} of {len(column)} rows have no {name}; label all rows or none")
    return [_text(value) for value in column]


def _texts(column: Any) -> list[str]:
    """Return the cells of a column as text, missing ones as empty text."""
    return ["" if missing else _text(value) for value, missing in zip(column, column.isna(), strict=True)]


def _text(value: Any) -> str:
    """Return a cell as text; 1.0 is class 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
