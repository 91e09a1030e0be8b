"""Image grids built from the examples that a probe requested."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from auditor.findings.evidence import GridRow, ImageGrid, Picture
from auditor.probes.base import Records
from auditor.probes.levels import Level

if TYPE_CHECKING:
    import pandas as pd

MAX_EXAMPLES = 6
"""Largest number of rows in a grid."""


def spread_over_classes(frame: pd.DataFrame) -> pd.DataFrame:
    """Select at most ``MAX_EXAMPLES`` rows, one per image, first of each class in turn."""
    first = frame.drop_duplicates("image_id")
    turns = first.assign(turn=first.groupby("label").cumcount())
    return turns.sort_values("turn", kind="stable").head(MAX_EXAMPLES)


def example_grid(
    records: Records,
    title: str,
    columns: Sequence[str],
    *,
    must_succeed: str = "",
    row_text: Callable[[Level, str], str] = lambda level, image_id: "",
    note: str = "",
) -> list[ImageGrid]:
    """Arrange the examples of a probe in a grid, one row per example; an empty list without examples.

    Args:
        records: Records with examples.
        title: Title of the grid.
        columns: Names of the pictures in each row.
        must_succeed: Name of the picture that must be misclassified as stored in 8 bits; other examples are omitted.
        row_text: Text after the class in a row's label, from the example's level and image id.
        note: Text after the caption.
    """
    rows = []
    omitted = 0
    for _, pictures in records.examples.groupby("example", sort=True):
        by_name = {picture.picture: picture for picture in pictures.itertuples()}
        first = by_name[columns[0]]
        if must_succeed and not by_name[must_succeed].success:
            omitted += 1
            continue
        label = records.class_name(first.label)
        text = row_text(json.loads(first.at), first.image_id)
        cells = [
            Picture(
                file=by_name[name].file,
                caption=f"× {by_name[name].factor:g}; grey: unchanged"
                if by_name[name].factor != 1 or name == "perturbation"
                else records.prediction_text(by_name[name]),
                alt=f"{name} image of class {label}",
            )
            for name in columns
        ]
        rows.append(GridRow(label=f"{label}; {text}" if text else label, cells=cells))
    if not rows:
        return []
    caption = "Row label: class. Under each picture: answer of the deployed model to the stored 8-bit file."
    if omitted:
        caption += f" {omitted} further examples are omitted: they no longer succeed after rounding to 8 bits."
    return [ImageGrid(title=title, columns=columns, rows=rows, caption=f"{caption} {note}".rstrip())]
