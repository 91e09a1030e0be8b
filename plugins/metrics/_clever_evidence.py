"""Plots and tables of ``metrics.clever``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from auditor import Axis, Metric, Point, Scatter, Series, Table
from auditor.findings.formatting import norm_name, percent
from auditor.plugins.metrics._clever_scores import TARGETS
from auditor.probes.levels import size, size_format

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def score_scatter(norm: str, score: NDArray[Any], distance: NDArray[Any], known: NDArray[Any]) -> Scatter:
    """Plot the score of each image against the smallest perturbation found, if one is ``known``."""
    unit = size_format(norm)
    below = score < distance
    clouds = {"below the distance": known & below, "not below": known & ~below}
    return Scatter(
        title=f"CLEVER score against the smallest perturbation found, {norm_name(norm)}",
        caption="One point per image on which an attack succeeded. A score that is not below the distance is wrong: it"
        " overestimates the robustness.",
        x=Axis(label="smallest perturbation found", unit=norm, format=unit, low=0),
        y=Axis(label="CLEVER score", unit=norm, format=unit, low=0),
        series=[
            Series(
                name=name,
                points=[Point(x=float(x), y=float(y)) for x, y in zip(distance[mask], score[mask], strict=True)],
            )
            for name, mask in clouds.items()
            if mask.any()
        ],
    )


def effort_table(norm: str, by_effort: Mapping[tuple[int, int], tuple[Metric, Metric]]) -> Table:
    """Tabulate median score and share below the distance by the number of batches and samples."""
    return Table(
        title=f"CLEVER score by the number of batches and samples, {norm_name(norm)}",
        columns=["batches x samples", "median score", "below the distance found", "images"],
        formats=["text", "text", "percent", "count"],
        rows=[
            [f"{batches} x {samples}", _text(median), share.cell(), share.n]
            for (batches, samples), (median, share) in by_effort.items()
        ],
        caption="More samples give larger slopes and therefore smaller scores. A score can be below the distance"
        " because of the number of samples alone.",
    )


def reliability_table(norm: str, rows: pd.DataFrame, median: Metric, shares: Mapping[str, Metric]) -> Table:
    """Tabulate what the reliability of the scores depends on.

    Args:
        norm: The norm.
        rows: Records in this norm.
        median: Median score.
        shares: Metrics by name: clever_below_distance, clever_fits, clever_at_radius, clever_spread.
    """
    from auditor import statistics
    from auditor.algorithms.extreme_values import SHAPES

    targeted = {
        text: statistics.median(f"clever_{name}", rows[f"clever_{name}"], unit=norm, units=rows.get("unit"))
        for name, text in TARGETS.items()
    }
    fitted = rows[rows["shape"].notna()]
    determined = statistics.proportion("determined", fitted["shape"] < SHAPES[1] - 1e-6, units=fitted.get("unit"))
    lines = {
        "median score": median,
        **{f"median score, targeted: {text}": metric for text, metric in targeted.items()},
        "below the distance found": shares["clever_below_distance"],
        "distribution fits (KS test, p > 0.05)": shares["clever_fits"],
        "largest slopes determine their endpoint (shape below 5)": determined,
        "relative difference of the two halves of the batches, median": shares["clever_spread"],
        "at the radius": shares["clever_at_radius"],
    }
    return Table(
        title=f"Reliability of the CLEVER scores, {norm_name(norm)}",
        columns=["quantity", "value", "images"],
        formats=["text", "text", "count"],
        rows=[[name, _text(metric), metric.n] for name, metric in lines.items()],
        caption="The test uses the values to which the distribution was fitted, so it rejects too rarely. If it rejects"
        " nevertheless, the score means little.",
    )


def _text(metric: Metric) -> str:
    if metric.value is None:
        return "not measured"
    return percent(metric) if metric.unit == "fraction" else size(metric.unit, metric.value)
