"""Accuracy of ``attacks.spatial`` by the largest rotation and translation."""

from __future__ import annotations

from collections.abc import Sequence

from auditor import Axis, Curve, Metric, Series, Table
from auditor.probes.metric_tables import metric_table
from auditor.probes.plots import accuracy_axis, metric_point


def rotation_curve(robust: Sequence[Metric], shifts: Sequence[float], accuracy: str) -> Curve:
    """Plot the accuracy at the worst position against the largest rotation, one line per largest translation."""
    return Curve(
        title="Accuracy against rotation, worst position",
        x=Axis(label="largest rotation (degrees)", low=0),
        y=accuracy_axis(accuracy),
        series=[_line(robust, shift) for shift in shifts],
        caption="Bands: 95 % intervals.",
    )


def budget_table(robust: Sequence[Metric]) -> Table:
    """Tabulate the accuracy at the worst position of every budget."""
    return metric_table(
        "Accuracy by rotation and translation",
        {"rotation up to (degrees)": "number", "translation up to": "percent"},
        {"accuracy": "percent"},
        [((m.at["rotation"], m.at["translation"]), (m,)) for m in robust],
    )


def _line(robust: Sequence[Metric], shift: float) -> Series:
    return Series(
        name=f"translation up to {100 * shift:g} %" if shift else "rotation only",
        points=[
            metric_point(metric, float(metric.at["rotation"] or 0))
            for metric in robust
            if metric.at["translation"] == shift
        ],
    )
