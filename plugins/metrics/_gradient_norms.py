"""Median norms of the loss gradients, for ``metrics.loss-sensitivity``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Metric, Table
from auditor.probes.metric_tables import metric_table

if TYPE_CHECKING:
    import pandas as pd


def median_norms(frame: pd.DataFrame) -> list[Metric]:
    """Return the median norms of the gradients of these images, L2 and L1."""
    from auditor import statistics

    name, units = "loss_sensitivity_median", frame.get("unit")
    return [statistics.median(name, frame[norm], unit="1", at={"norm": norm}, units=units) for norm in ("l2", "l1")]


def norm_table(frame: pd.DataFrame) -> Table:
    """Compare the median norms of all, correct and misclassified images."""
    correct = frame["prediction"] == frame["label"]
    subsets = {"all": frame, "correct": frame[correct], "misclassified": frame[~correct]}
    return metric_table(
        "Median norm of the loss gradient",
        {"images": "text"},
        {"L2": "number", "L1": "number"},
        [((name,), median_norms(rows)) for name, rows in subsets.items()],
        caption="To first order, the L1 norm is the change of the loss by an L-infinity perturbation of size 1.",
    )
