"""Evidence of ``performance.accuracy``: table by class, confusion matrix and images of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor import Finding, GridRow, HeatMap, ImageGrid, Metric, Picture, Records, Table
from auditor.findings.formatting import percent
from auditor.probes.gaps import ALPHA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_SHOWN = 50
_MAX_HEAT_MAP = 40
"""With more classes, the confusion matrix is unreadable on paper."""


def class_recalls(records: Records) -> list[Metric]:
    """Return the recall of each class that occurs, with intervals that hold for all classes at once (Bonferroni)."""
    from auditor import statistics

    labels, units = records.frame["label"].to_numpy(), records.frame.get("unit")
    correct = labels == records.frame["prediction"].to_numpy()
    present = sorted(set(labels.tolist()))
    recalls = []
    for c in present:
        inside = statistics.keep(units, labels == c)
        counted = statistics.effective_count(correct[labels == c], inside)
        interval = statistics.wilson(*counted, confidence=1 - ALPHA / len(present))
        recalls.append(
            Metric(
                name="class_recall",
                **interval._asdict(),
                n=int((labels == c).sum()),
                at={"class": records.class_name(c)},
                units=statistics.count_units(inside),
            )
        )
    return recalls


def recall_finding(records: Records) -> list[Finding]:
    """Report the class with the lowest recall; empty if there is only one class."""
    recalls = class_recalls(records)
    if len(recalls) < 2:
        return []
    worst = min(recalls, key=lambda metric: (metric.high or 0.0, metric.value or 0.0))
    return [
        Finding(
            id="performance.accuracy/recall",
            title="Recall by class",
            statement=f"The class with the lowest recall is {worst.at['class']}: {percent(worst)} (n = {worst.n}). The"
            f" intervals of all {len(recalls)} classes hold at once (Bonferroni).",
            metric=worst,
            evidence=[class_table(records)],
        )
    ]


def class_table(records: Records) -> Table:
    """Tabulate recall and precision of each class that occurs."""
    from auditor import statistics

    labels, predictions = records.frame["label"].to_numpy(), records.frame["prediction"].to_numpy()
    correct, units = labels == predictions, records.frame.get("unit")
    rows: list[list[Any]] = []
    for c, name in enumerate(records.classes):
        masks = (labels == c, predictions == c)
        if masks[0].any() or masks[1].any():
            recall, precision = (
                statistics.proportion("share", correct[mask], units=statistics.keep(units, mask)) for mask in masks
            )
            rows.append([name, recall.cell(), precision.cell(), recall.n, precision.n])
    rows.sort(key=lambda row: (row[1]["value"] is None, row[1]["value"]))
    return Table(
        title="By class, lowest recall first",
        columns=["class", "recall", "precision", records.kind, "predictions"],
        formats=["text", "percent", "percent", "count", "count"],
        rows=rows[:_ROWS_SHOWN],
        caption=f"First {_ROWS_SHOWN} of {len(rows)} classes." if len(rows) > _ROWS_SHOWN else "",
    )


def confusion_map(records: Records, matrix: NDArray[np.int64]) -> list[HeatMap]:
    """Return the confusion matrix; empty for many classes."""
    if len(records.classes) > _MAX_HEAT_MAP:
        return []
    return [
        HeatMap(
            title="Confusion matrix",
            values=matrix.tolist(),
            row_labels=records.classes,
            column_labels=records.classes,
            row_title="label",
            column_title="prediction",
            format="count",
        )
    ]


def error_images(records: Records) -> list[ImageGrid]:
    """Return the images of the most confident errors."""
    errors = list(records.examples.itertuples())
    if not errors:
        return []
    cells = [
        Picture(
            file=row.file,
            caption=f"{records.prediction_text(row)}; {row.image_id}",
            alt=f"image of class {records.class_name(row.label)}",
        )
        for row in errors
    ]
    return [
        ImageGrid(
            title="Most confident errors",
            columns=[f"label {records.class_name(row.label)}" for row in errors],
            rows=[GridRow(label="", cells=cells)],
            caption="Below each image: prediction with its confidence, and image id.",
        )
    ]
