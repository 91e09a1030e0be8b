"""Evidence of ``performance.accuracy``: table by class, confusion matrix and images of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor import Finding, GridRow, HeatMap, ImageGrid, Metric, Picture, Records, Table
from auditor.findings.formatting import percent
from auditor.probes.gaps import ALPHA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_ROWS_SHOWN = 50
_MAX_HEAT_MAP = 40
"""With more classes, the confusion matrix is unreadable on paper."""


def class_recalls(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[Metric]:
    """Return the recall of each class that occurs, with intervals that hold for all classes at once (Bonferroni)."""
    from auditor import statistics

    present = [c for c in range(len(matrix)) if matrix[c].sum()]
    return [
        Metric(
            name="class_recall",
            **statistics.wilson(int(matrix[c, c]), int(matrix[c].sum()), confidence=1 - ALPHA / len(present))._asdict(),
            n=int(matrix[c].sum()),
            at={"class": classes[c]},
        )
        for c in present
    ]


def recall_finding(matrix: NDArray[np.int64], records: Records) -> list[Finding]:
    """Report the class with the lowest recall; empty if there is only one class."""
    recalls = class_recalls(matrix, records.classes)
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
            evidence=[class_table(records, matrix)],
        )
    ]


def class_table(records: Records, matrix: NDArray[np.int64]) -> Table:
    """Tabulate recall and precision of each class that occurs."""
    from auditor import statistics

    rows: list[list[Any]] = []
    for c, name in enumerate(records.classes):
        n, predicted, correct = int(matrix[c].sum()), int(matrix[:, c].sum()), int(matrix[c, c])
        if n or predicted:
            recall, precision = (statistics.wilson(correct, whole)._asdict() for whole in (n, predicted))
            rows.append([name, recall, precision, n, predicted])
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
