"""Reliability diagrams and calibration by group, for ``performance.calibration``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Axis, Curve, Point, Records, Series, Table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor import Evidence
    from auditor.findings.evidence import Cell
    from auditor.statistics import Units

_GROUP_BINS = 5
_MAX_LINES = 4
"""Diagrams with more lines are unreadable."""

_ROWS_SHOWN = 60


def reliability_diagram(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int, units: Units) -> Curve:
    """Return accuracy against confidence of all images, with the diagonal."""
    points = _bin_points(confidence, correct, bins, units)
    return Curve(
        title="Reliability diagram",
        x=_confidence_axis(),
        y=_accuracy_axis(),
        series=[
            Series(name="model", points=points),
            Series(name="perfect", points=[Point(x=0, y=0), Point(x=1, y=1)]),
        ],
        caption="Bins of equal size with 95 % intervals. Below the diagonal the model is overconfident.",
    )


def group_calibration(records: Records, bins: int, minimum: int) -> list[Evidence]:
    """Return a table of calibration errors and overconfidence by group, and a diagram for each column."""
    from auditor.probes.groupings import groupings

    frame = records.frame
    rows: list[list[Cell]] = []
    diagrams: list[Evidence] = []
    for name, values in groupings(frame, cross=False).items():
        large = [(str(value), part) for value, part in frame.groupby(values, sort=True) if _size(part) >= minimum]
        rows += [_group_row(name, value, part, bins) for value, part in large]
        if 2 <= len(large) <= _MAX_LINES:
            diagrams.append(_group_diagram(name, large))
    table = Table(
        title="Calibration by group",
        columns=[
            "group",
            "value",
            "calibration error",
            "debiased",
            "Brier score",
            "log loss",
            "overconfidence",
            "n",
        ],
        formats=["text", "text", "percent", "percent", "number", "number", "percent", "count"],
        rows=rows[:_ROWS_SHOWN],
        caption=f"Groups of at least {minimum} {records.kind}. Overconfidence: mean confidence minus accuracy.",
    )
    return [table, *diagrams] if rows else []


def _size(part: pd.DataFrame) -> int:
    """Return the number of units, or of images if the data states no units."""
    return int(part["unit"].nunique()) if "unit" in part else len(part)


def _group_row(name: str, value: str, part: pd.DataFrame, bins: int) -> list[Cell]:
    from auditor import statistics

    (confidence, correct), units = _columns(part), part.get("unit")
    error = statistics.calibration_interval(confidence, correct, bins, resamples=200, units=units)
    brier, log_loss = (
        statistics.mean("mean", part[key], unit="1", units=units).cell() for key in ("brier", "log_loss")
    )
    overconfidence = statistics.mean("overconfidence", confidence - correct, unit="fraction", units=units)
    debiased = statistics.calibration_error_debiased(confidence, correct, bins, units=units)
    return [name, value, error._asdict(), debiased, brier, log_loss, overconfidence.cell(), len(part)]


def _group_diagram(name: str, groups: list[tuple[str, pd.DataFrame]]) -> Curve:
    return Curve(
        title=f"Reliability by {name}",
        x=_confidence_axis(),
        y=_accuracy_axis(),
        series=[
            Series(name=value, points=_bin_points(*_columns(part), _GROUP_BINS, part.get("unit")))
            for value, part in groups
        ],
        caption=f"{_GROUP_BINS} bins of equal size for each group.",
    )


def _columns(part: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return confidence and correctness, (n,) each."""
    return part["confidence"].to_numpy(), (part["prediction"] == part["label"]).to_numpy()


def _confidence_axis() -> Axis:
    return Axis(label="mean confidence of the bin", format="percent", low=0, high=1, unit="fraction")


def _accuracy_axis() -> Axis:
    return Axis(label="accuracy in the bin", format="percent", low=0, high=1, unit="fraction")


def _bin_points(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int, units: Units) -> list[Point]:
    """Return accuracy against mean confidence in bins of equal size."""
    import numpy as np

    from auditor import statistics

    points = []
    for part in np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence))):
        value, low, high = statistics.wilson(*statistics.effective_count(correct[part], statistics.keep(units, part)))
        points.append(Point(x=float(confidence[part].mean()), y=value, low=low, high=high, n=len(part)))
    return points
