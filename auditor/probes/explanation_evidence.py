"""Evidence of an explanation: the table of checks, deletion and insertion curves, and example maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor.findings.evidence import Axis, Curve, GridRow, ImageGrid, Picture, Point, Series, Table
from auditor.findings.finding import Finding
from auditor.findings.formatting import points
from auditor.probes.base import Records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.probes.grading import Grades
    from auditor.statistics.cluster import Units


def faithfulness_finding(probe_id: str, records: Records, grades: Grades, frame: pd.DataFrame, steps: int) -> Finding:
    """Report the checks of the maps with the deletion and insertion curves."""
    advantage = grades.metrics[0]
    covered = "features" if records.kind == "rows" else "cells"
    return Finding(
        id=f"{probe_id}/faithfulness",
        title="Faithfulness of the maps",
        statement=f"Covering {covered} in the map's order lowers the probability of the prediction by"
        f" {points(advantage)} more than random order, averaged over the curve (n = {advantage.n}). Result:"
        f" {grades.verdict}.",
        metric=advantage,
        evidence=[
            Table(
                title="Checks of the maps",
                columns=["check", "value", "requirement", "n", "result"],
                formats=["text", "number", "text", "count", "text"],
                rows=[[c.name, c.metric.cell(), c.requirement, c.metric.n, c.result] for c in grades.checks],
            ),
            _removal_curve(records, frame, "deletion", steps),
            _removal_curve(records, frame, "insertion", steps),
        ],
    )


def _removal_curve(records: Records, frame: pd.DataFrame, kind: str, steps: int) -> Curve:
    """Return the mean deletion or insertion curve in the map's order and in random order."""
    import numpy as np

    shares = [i / steps for i in range(steps + 1)]
    series = [
        Series(
            name=name,
            points=[
                _mean_point(x, column, frame.get("unit"))
                for x, column in zip(shares, np.stack(frame[key].to_list()).T, strict=True)
            ],
        )
        for name, key in (("map order", kind), ("random order", f"{kind}_random"))
    ]
    whole = "features" if records.kind == "rows" else "image"
    action, slope = ("covered", "fall") if kind == "deletion" else ("uncovered", "rise")
    return Curve(
        title=f"{kind.capitalize()} curve",
        x=Axis(label=f"share of the {whole} {action}", format="percent"),
        y=Axis(label="probability of the prediction", format="percent", low=0, high=1, unit="fraction"),
        series=series,
        caption=f"Mean over the {records.kind} with its 95 % interval. A steeper {slope} than in random order indicates"
        " a faithful map.",
    )


def _mean_point(x: float, values: NDArray[np.float64], units: Units) -> Point:
    from auditor import statistics

    value, low, high = statistics.bootstrap(values, units=units)
    return Point(x=x, y=value, low=low, high=high, n=len(values))


def map_images(title: str, records: Records, selected: Sequence[str]) -> list[ImageGrid]:
    """Return the example images with their maps; ``selected`` are ids of images chosen for their errors."""
    import numpy as np

    maps = dict(zip(records.frame["image_id"], records.frame["map"], strict=True))
    rows = []
    for row in records.examples.itertuples():
        heat = np.asarray(maps[row.image_id], dtype=np.float64)
        side = round(len(heat) ** 0.5)
        if side * side != len(heat):
            continue
        prediction, label = records.prediction_text(row), records.class_name(row.label)
        note = "confident error or small adversarial distance" if row.image_id in selected else ""
        image = Picture(file=row.file, caption=prediction, alt=f"image of class {label}")
        overlay = Picture(
            file=row.file, caption=note, alt=f"{title} for {prediction}", heat=heat.reshape(side, side).tolist()
        )
        name = f"{label}, {row.image_id}" if records.labelled else str(row.image_id)
        rows.append(GridRow(label=name, cells=[image, overlay]))
    caption = "Below the image: the prediction. On the map, warm cells support the prediction and cold cells oppose it."
    return [ImageGrid(title="Maps", columns=["image", "map"], rows=rows, caption=caption)] if rows else []
