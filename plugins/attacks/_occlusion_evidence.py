"""Tables and plots of ``attacks.occlusion``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auditor import Axis, Curve, HeatMap, Metric, Records, Series, Table
from auditor.probes.metric_tables import metric_table
from auditor.probes.plots import accuracy_axis, metric_point
from auditor.probes.units import units_by_image

if TYPE_CHECKING:
    import pandas as pd

_MAX_CLASSES = 50


def fill_table(by_fill: Mapping[str, Sequence[Metric]]) -> Table:
    """Compare the worst position with a random one; metrics per fill as columns below."""
    return metric_table(
        "Occlusion by fill: worst position and control",
        {"fill": "text"},
        {
            "accuracy, worst position": "percent",
            "accuracy, control": "percent",
            "confidence drop, worst position": "percent",
            "confidence drop, control": "percent",
        },
        [((fill,), metrics) for fill, metrics in by_fill.items()],
        caption="Control: a block at another, random position. Confidence drop: mean decrease of the label's"
        " probability.",
    )


def size_curve(frame: pd.DataFrame, fills: Sequence[str], accuracy: str) -> list[Curve]:
    """Plot accuracy against the size of the block, for the worst fill of each image, per fill and for the control."""
    from auditor import statistics

    if frame["block"].nunique() < 2:
        return []

    def line(name: str, correct: Callable[[pd.DataFrame], Any]) -> Series:
        shares = {}
        for side, rows in frame.groupby("block"):
            hits = correct(rows)
            # the control has a row for each fill, so without units the images are the units
            units = rows.get("unit", rows["image_id"])[hits.index]
            shares[float(side)] = statistics.proportion(name, hits, units=units)
        return Series(name=name, points=[metric_point(share, side) for side, share in shares.items()])

    def robust(fill: str) -> Callable[[pd.DataFrame], Any]:
        return lambda rows: (rows["correct"] & ~rows["misclassified"])[rows["fill"] == fill]

    def robust_to_all(rows: pd.DataFrame) -> Any:
        held = (rows["correct"] & ~rows["misclassified"]).groupby(rows["image_id"]).transform("all")
        return held[~rows["image_id"].duplicated()]

    worst = [line("worst fill of each image", robust_to_all)] if len(fills) > 1 else []
    control = line("control, mean of the fills", lambda rows: ~rows["control_misclassified"])
    return [
        Curve(
            title="Accuracy against block size",
            caption="Worst position by fill, and the control. Bands: 95 % intervals.",
            x=Axis(label="side of the block, share of the image side", format="percent", unit="fraction", low=0),
            y=accuracy_axis(accuracy),
            series=[*worst, *(line(fill, robust(fill)) for fill in fills), control],
        )
    ]


def position_map(frame: pd.DataFrame) -> HeatMap:
    """Plot the mean confidence drop by position."""
    import numpy as np

    mean = np.stack(frame["drops"].to_list()).mean(axis=0)
    # small images have fewer distinct positions than steps
    side = round(len(mean) ** 0.5)
    values = mean.reshape(side, -1) if side * side == len(mean) else mean[None]
    return HeatMap(
        title="Confidence drop by position",
        values=values.tolist(),
        row_title="top to bottom",
        column_title="left to right",
        format="percent",
        diverging=True,
        caption="Mean decrease of the label's probability over all images and fills, by position of the block.",
    )


def class_table(records: Records, frame: pd.DataFrame) -> Table:
    """Tabulate the mean confidence drop by class, largest first."""
    from auditor import statistics

    rows = []
    for label, group in frame.groupby("label"):
        by_image = group.groupby("image_id")[["drop", "control_drop"]].mean()
        units = units_by_image(group, by_image.index)
        drops = [
            statistics.mean(name, by_image[name], unit="fraction", units=units) for name in ("drop", "control_drop")
        ]
        rows.append(((records.class_name(float(label)),), drops))
    rows.sort(key=lambda row: -(row[1][0].value or 0))
    return metric_table(
        "Confidence drop by class",
        {"class": "text"},
        {"worst position": "percent", "control": "percent"},
        rows[:_MAX_CLASSES],
        caption="" if len(rows) <= _MAX_CLASSES else f"The first {_MAX_CLASSES} of {len(rows)} classes.",
    )
