"""CLEVER scores compared with the distances that attacks found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Level, Metric
from auditor.findings.formatting import percent

if TYPE_CHECKING:
    import pandas as pd


def attacked(rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which images have a positive, finite distance from an attack."""
    import numpy as np

    return np.isfinite(rows["distance"]) & (rows["distance"] > 0)


def score_metrics(rows: pd.DataFrame, column: str, at: Level) -> tuple[Metric, Metric]:
    """Return the median score, and the share of scores below the distance found."""
    from auditor import statistics

    found = rows[attacked(rows)]
    below = found[column] < found["distance"]
    return (
        statistics.median("clever_median", rows[column], unit=str(at["norm"]), at=at, units=rows.get("unit")),
        statistics.proportion("clever_below_distance", below, at=at, units=found.get("unit")),
    )


def share_text(share: Metric) -> str:
    """State the share of scores below the distance found."""
    if not share.n:
        return "No attack succeeded on these images, so there is no comparison."
    return (
        f"On {percent(share)} of the {share.n} successfully attacked images, the score is below the smallest"
        " perturbation found."
    )
