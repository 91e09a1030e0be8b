"""Smallest perturbations relative to the norms of the images, for ``metrics.empirical-robustness``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from auditor import Level, Metric, Table
from auditor.findings.formatting import norm_name, percent

if TYPE_CHECKING:
    import pandas as pd


def relative_distance(nearest: pd.DataFrame, frame: pd.DataFrame, norm: str) -> tuple[Metric, Metric]:
    """Return the mean relative distance and the success rate.

    Args:
        nearest: The smallest perturbation of each image over all attacks, by image id.
        frame: Records of the probe: the norms of the images.
        norm: "linf", "l2" or "l1".
    """
    import numpy as np

    from auditor import statistics

    at: Level = {"norm": norm}
    nearest = nearest[nearest["distance"] > 0]
    relative: pd.Series[float] | list[float] = []
    if len(frame):
        norms = frame.set_index("image_id")[norm]
        nearest = nearest[nearest.index.isin(norms.index)]
        relative = nearest["distance"] / norms.reindex(nearest.index)
    found = np.isfinite(nearest["distance"])
    units = nearest.get("unit")
    success = statistics.proportion("attack_success_rate", found, at=at, units=units)
    mean = statistics.mean(
        "empirical_robustness", relative, unit="fraction", at=at, units=units if len(frame) else None
    )
    return mean, success


def distance_text(norm: str, mean: Metric, success: Metric) -> str:
    """State the success rate and the mean relative distance in one norm."""
    return (
        f"In {norm_name(norm)}, {percent(success)} of {success.n} correctly classified images were misclassified, at a"
        f" mean perturbation of {100 * (mean.value or 0):.2g} % of the image norm (n = {mean.n})"
    )


def distance_table(by_norm: Mapping[str, tuple[Metric, Metric]]) -> Table:
    """Tabulate the mean relative distance and the success rate of each norm."""
    return Table(
        title="Empirical robustness and success rate",
        columns=["norm", "empirical robustness", "successes", "success rate", "images attacked"],
        formats=["text", "percent", "count", "percent", "count"],
        rows=[
            [norm_name(norm), mean.cell(), mean.n, success.cell(), success.n]
            for norm, (mean, success) in by_norm.items()
        ],
        caption="Smallest perturbation of each image over all attacks; the mean is over the successes.",
    )
