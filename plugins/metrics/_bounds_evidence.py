"""Plots, tables and the statement of ``metrics.bounds``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from auditor import Curve, Metric, Series, Table
from auditor.findings.formatting import norm_name
from auditor.probes.levels import size_format
from auditor.probes.plots import accuracy_axis, accuracy_points, epsilon_axis

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROWS = 40
"""Images in a table; the records hold all of them."""

_POINTS = 30


AT_RADIUS = "the score is the radius of the sampled ball"
MISFIT = "the distribution does not fit its largest slopes"
NO_ENDPOINT = "its largest slopes do not determine their endpoint"
FEW_SAMPLES = "the halves of the sample differ"
RARE = "random points missed the slope towards the error"
"""Causes of a CLEVER score above a perturbation found; the last one is left if the estimate shows none."""


class Contradictions(NamedTuple):
    """Images whose certificate or CLEVER score exceeds a perturbation that an attack found."""

    certified: pd.DataFrame
    """Images with a certificate."""
    scored: pd.DataFrame
    """Images with a CLEVER score."""
    refuted: pd.DataFrame
    """Images whose certificate exceeds the distance found."""
    overestimated: pd.DataFrame
    """Images whose CLEVER score exceeds the distance found."""
    reasons: pd.Series[str]
    """Why the score of each overestimated image is uncertain; "" if nothing suggests it."""


def statement(norm: str, ratio: Metric, found: Contradictions) -> str:
    """Describe the contradictions and the ratio of the bounds."""
    n = len(found.certified)
    parts = []
    if len(found.refuted):
        parts.append(
            f"AUDIT ERROR: on {len(found.refuted)} of {n} images the certificate exceeds a perturbation that changes"
            f" the answer ({', '.join(map(str, found.refuted.index[:5]))})"
        )
    elif n:
        parts.append(f"No attack contradicts a certificate (n = {n}, {norm_name(norm)})")
    if ratio.value is not None:
        parts.append(
            f"the median ratio of the smallest perturbation found to the certified radius is {ratio.value:.3g}"
        )
    if len(found.scored):
        text = (
            f"the CLEVER score exceeds a perturbation found on {len(found.overestimated)} of {len(found.scored)} images"
        )
        unexplained = int((found.reasons == "").sum())
        if len(found.overestimated):
            text += f", on {unexplained} of them without a sign of uncertainty"
        parts.append(text)
        parts += _causes(found)
    return "; ".join(parts) + "."


def _causes(found: Contradictions) -> list[str]:
    """Count the images by cause, of which one may have several; for the last cause also state its size."""
    if not len(found.overestimated):
        return []
    counts = {
        cause: int(found.reasons.str.contains(cause, regex=False).sum())
        for cause in (AT_RADIUS, MISFIT, NO_ENDPOINT, FEW_SAMPLES)
    }
    texts = [f"{cause} on {count}" for cause, count in counts.items() if count]
    unexplained = found.overestimated[found.reasons == ""]
    if len(unexplained):
        texts.append(
            f"{RARE} on {len(unexplained)}: there the margin falls {_steeper(unexplained).median():.2g} times as fast"
            " as the estimated steepest slope (median)"
        )
    return [f"causes, of which an image may have several: {', '.join(texts)}"]


def _steeper(rows: pd.DataFrame) -> pd.Series[float]:
    """Return the mean slope towards the error in units of the estimated steepest one."""
    return rows["margin"] / rows["distance"] / rows["slope"]


def accuracy_bounds(rows: pd.DataFrame, norm: str, accuracy: str) -> Curve:
    """Plot certified accuracy and accuracy under the best attack against epsilon."""
    import numpy as np

    def sizes(values: Any) -> list[float]:
        if not len(values):
            return [0.0]
        return [0.0, *np.unique(np.quantile(values, np.linspace(0, 1, _POINTS), method="nearest"))]

    radius, distance, units = rows["certified"].to_numpy(), rows["distance"].to_numpy(), rows.get("unit")
    attacked = accuracy_points(
        sizes(distance[np.isfinite(distance) & (distance > 0)]), lambda epsilon: distance > epsilon, units
    )
    certified = accuracy_points(sizes(radius[radius > 0]), lambda epsilon: (radius >= epsilon) & (distance > 0), units)
    return Curve(
        title=f"Lower and upper bound of the accuracy, {norm_name(norm)}",
        caption=f"On the same {len(rows)} images. The true accuracy is between the curves. Bands: 95 % intervals.",
        x=epsilon_axis(norm),
        y=accuracy_axis(accuracy),
        series=[
            Series(name="upper bound: best attack", points=attacked),
            Series(name="lower bound: certified", points=certified),
        ],
    )


def bounds_table(title: str, rows: pd.DataFrame, norm: str, caption: str = "") -> Table:
    """Tabulate certificate, CLEVER score and distance found of each image."""
    import numpy as np

    def finite(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    first = rows.sort_values("distance", kind="stable").head(_MAX_ROWS)
    if len(rows) > len(first):
        caption = f"{caption} {len(first)} of {len(rows)} images; the records hold all.".strip()
    unit = size_format(norm)
    return Table(
        title=title,
        columns=["image", "lower bound: certified", "estimate: CLEVER", "upper bound: found", "attack"],
        formats=["text", unit, unit, unit, "text"],
        rows=[
            [str(row.Index), finite(row.certified), finite(row.clever), finite(row.distance), row.attack or "–"]
            for row in first.itertuples()
        ],
        caption=caption,
    )


def overestimation_table(found: Contradictions, norm: str) -> Table:
    """Tabulate the images whose CLEVER score exceeds a perturbation found, with signs of uncertainty."""
    rows = found.overestimated.assign(reason=found.reasons).sort_values("distance", kind="stable").head(_MAX_ROWS)
    unit = size_format(norm)
    return Table(
        title=f"Contradictions, {norm_name(norm)}: CLEVER score above a perturbation found",
        columns=["image", "estimate: CLEVER", "upper bound: found", "attack", "ratio", "sign of uncertainty"],
        formats=["text", unit, unit, "text", "number", "text"],
        rows=[
            [
                str(row.Index),
                float(row.clever),
                float(row.distance),
                row.attack,
                float(row.clever / row.distance) if row.distance else None,
                row.reason or f"none: {RARE}",
            ]
            for row in rows.itertuples()
        ],
        caption="Towards the error the margin falls at least ratio times as fast as the estimated steepest slope. The"
        " signs of uncertainty come from the estimate itself.",
    )
