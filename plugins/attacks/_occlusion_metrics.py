"""Metrics of ``attacks.occlusion`` for one size and fill, over all images and per image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Level, Metric, PerImage
from auditor.probes.grid_search import robust_accuracy

if TYPE_CHECKING:
    import pandas as pd


def fill_metrics(rows: pd.DataFrame, at: Level) -> list[Metric]:
    """Return robust accuracy, control accuracy, confidence drop and its control, of one size and fill."""
    from auditor import statistics

    units = rows.get("unit")
    return [
        robust_accuracy(rows["correct"], rows["misclassified"], at, units=units),
        statistics.proportion("occluded_accuracy", ~rows["control_misclassified"], at=at, units=units),
        statistics.mean("confidence_drop", rows["drop"], unit="fraction", at=at, units=units),
        statistics.mean("confidence_drop_control", rows["control_drop"], unit="fraction", at=at, units=units),
    ]


def accuracies_per_image(rows: pd.DataFrame, at: Level) -> list[PerImage]:
    """Return whether each image is robust, and correct at the control position; ``rows`` by image id."""
    robust = (rows["prediction"] == rows["label"]) & ~rows["misclassified"]
    return [
        PerImage(name="robust_accuracy", values=robust, at=at),
        PerImage(name="occluded_accuracy", values=~rows["control_misclassified"], at=at),
    ]


def drops_per_image(rows: pd.DataFrame, at: Level) -> list[PerImage]:
    """Return the confidence drop of each image at the worst and at the control position; ``rows`` by image id."""
    return [
        PerImage(name="confidence_drop", values=rows["drop"], at=at),
        PerImage(name="confidence_drop_control", values=rows["control_drop"], at=at),
    ]
