"""Rows of features instead of images: tables whose columns are told apart, and the space in which rows are perturbed.

A row is an image of one channel and one line, ``(1, 1, features)``, with values in [0, 1]: 0 is the smallest value that
the feature has in the table, 1 the largest. So an epsilon is a share of every feature's range, nothing leaves the range
that was seen, and a feature that holds whole numbers only is rounded to whole numbers before the model sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Source
from auditor.errors import BadInput
from auditor.model.preprocessing import Preprocessing

_SAME = 1e-7
"""As a share of the range: float32 in [0, 1] and back errs by half of this."""

_BACKGROUND = 100
"""As many rows as shap's maskers take at most by default."""


class Feature(NamedTuple):
    """A column that the model sees."""

    name: str
    low: float
    high: float
    deviation: float
    """Standard deviation over the table."""
    whole: bool
    """Whole numbers only."""


@dataclass(frozen=True, kw_only=True)
class RowPreprocessing(Preprocessing):
    """From [0, 1] to the features' own units, as the model wants them: (n, features)."""

    features: tuple[Feature, ...] = ()
    values: tuple[NDArray[np.float64], ...] = field(default=(), repr=False, compare=False)
    """The sorted values of each feature in the table: trees split at them, so they must come back exactly."""
    background: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32), repr=False, compare=False
    )
    """At most 100 rows of the table, evenly spaced, (m, features) in [0, 1]: what explanations call usual."""

    def apply(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """Rows (n, 1, 1, features) as the artefact's input."""
        rows = self._low + pixels.reshape(len(pixels), -1).astype(np.float64) * self._range
        for i, known in enumerate(self.values):
            near = np.clip(np.searchsorted(known, rows[:, i]), 1, max(1, len(known) - 1))
            below, above = known[near - 1], known[np.minimum(near, len(known) - 1)]
            nearest = np.where(rows[:, i] - below < above - rows[:, i], below, above)
            rows[:, i] = np.where(np.abs(rows[:, i] - nearest) <= _SAME * self._range[i], nearest, rows[:, i])
        whole = [feature.whole for feature in self.features]
        rows[:, whole] = np.rint(rows[:, whole])
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            rows = np.rint(rows)
        return np.ascontiguousarray(rows, dtype=self.dtype)

    def differentiable(self, pixels: Any) -> Any:
        """The same under autograd; whole numbers are not rounded, only scaled."""
        import torch

        rows = pixels.flatten(1) * pixels.new_tensor(self._range) + pixels.new_tensor(self._low)
        return rows.to(torch.float16) if self.dtype == "float16" else rows

    @property
    def deviations(self) -> NDArray[np.float32]:
        """(features,) standard deviations, as shares of the ranges."""
        wide = np.where(self._range > 0, self._range, 1)
        return (np.array([feature.deviation for feature in self.features]) / wide).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """As audit.json shows it."""
        overrides = super().describe() | {"range": [float(self._low.min()), float((self._low + self._range).max())]}
        return overrides | {"features": [feature._asdict() for feature in self.features]}

    @property
    def _low(self) -> NDArray[np.float64]:
        return np.array([feature.low for feature in self.features], dtype=np.float64)

    @property
    def _range(self) -> NDArray[np.float64]:
        return np.array([feature.high - feature.low for feature in self.features], dtype=np.float64)


def unknown(n: int, dtype: str) -> RowPreprocessing:
    """For a model of ``n`` features and no table: every feature from 0 to 1."""
    features = tuple(Feature(f"feature {i}", 0.0, 1.0, 1.0, whole=False) for i in range(n))
    return RowPreprocessing(shape=(1, 1, n), layout="rows", dtype=dtype, features=features)


def of_table(
    source: Source, n_features: int | None, dtype: str, *, label: str | None, groups: Sequence[str] | None,
    features: Sequence[str] | None,
) -> tuple[Source, RowPreprocessing]:  # fmt: skip
    """The rows of a table that has ``columns``, and their preprocessing.

    The label is the column ``label`` or the one named so; groups are those named, and where none are, the columns that
    hold text; features are those named, else all other columns, in the table's order. Rows without a number in some
    feature are named as unreadable and left out.

    Raises BadInput when the columns do not fit the model.
    """
    import pandas as pd

    assert source.columns is not None
    table: Mapping[str, Any] = {name: pd.Series(values) for name, values in source.columns.items()}
    label = label or ("label" if "label" in table else None)
    for name in (*([label] if label else []), *(groups or ()), *(features or ())):
        if name not in table:
            raise BadInput(f"{source.path}: has no column {name!r}; it has {', '.join(table)}")
    numbers = {name: pd.to_numeric(column, errors="coerce") for name, column in table.items()}
    texts = [name for name, column in table.items() if bool((numbers[name].isna() & column.notna()).any())]
    if groups is None:
        groups = [name for name in texts if name != label and name not in (features or ())]
    if features is None:
        features = [name for name in table if name != label and name not in groups]
    if n_features is not None and len(features) != n_features:
        raise BadInput(
            f"{source.path}: has {len(features)} columns of features ({', '.join(features) or 'none'}), but the model"
            f" takes {n_features}; name label, groups and, if need be, features under [data] in the sidecar"
        )
    for name in features:
        if name in texts:
            odd = table[name][numbers[name].isna() & table[name].notna()].iloc[0]
            raise BadInput(
                f"{source.path}: column {name} holds {odd!r}; expected numbers; if it is no feature of the model, name"
                " it under [data] groups in the sidecar"
            )
    values = np.stack([numbers[name].to_numpy(dtype=np.float64) for name in features], axis=1)
    values = values.astype(np.float32 if dtype in {"float32", "float16"} else np.float64).astype(np.float64)
    known = values[np.isfinite(values).all(axis=1)]
    if not len(known):
        raise BadInput(f"{source.path}: not one row has a number in every feature; expected at least one")
    columns = [np.unique(column) for column in known.T]
    usual = known[np.unique(np.linspace(0, len(known) - 1, _BACKGROUND).astype(int))]
    found = tuple(
        Feature(name, float(c[0]), float(c[-1]), float(column.std()), whole=bool((c == np.rint(c)).all()))
        for name, c, column in zip(features, columns, known.T, strict=True)
    )
    low = np.array([feature.low for feature in found])
    wide = np.array([feature.high - feature.low or 1.0 for feature in found])

    def read(index: int) -> tuple[bytes, NDArray[Any]]:
        row = values[index]
        if not np.isfinite(row).all():
            raise ValueError(f"no number for {features[int(np.argmin(np.isfinite(row)))]}")
        return row.tobytes(), ((row - low) / wide).astype(np.float32)[None].clip(0, 1)

    rows = replace(
        source, read=read, columns=None,
        labels=None if label is None else _labels(source.path, label, table[label]),
        groups={name: ["" if pd.isna(v) else _text(v) for v in table[name]] for name in groups},
    )  # fmt: skip
    preprocessing = RowPreprocessing(
        shape=(1, 1, len(features)), layout="rows", dtype=dtype, features=found, values=tuple(columns),
        background=((usual - low) / wide).astype(np.float32).clip(0, 1),
    )  # fmt: skip
    return rows, preprocessing


def _labels(path: str, name: str, column: Any) -> list[str] | None:
    missing = column.isna()
    if missing.all():
        return None
    if missing.any():
        raise BadInput(
            f"{path}: {int(missing.sum())} of {len(column)} rows have no {name}; label all rows or none"
        )  # fmt: skip
    return [_text(value) for value in column]


def _text(value: Any) -> str:
    """A cell as text; 1.0 is class 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
