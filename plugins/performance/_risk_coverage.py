"""Risk-coverage curve and accuracy above a confidence threshold, for ``performance.calibration``.

A model that refuses the images with a low confidence is a selective classifier (Geifman and El-Yaniv 2017,
arXiv:1705.08500). The area under its risk-coverage curve (AURC) is the mean risk over all thresholds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor import Axis, Curve, Finding, Metric, MetricSpec, Point, Records, Series, Table
from auditor.findings.formatting import measured, number
from auditor.plugins.performance._confidence_threshold import THRESHOLDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell
    from auditor.statistics import Units

AURC = MetricSpec(name="aurc", label="Area under the risk-coverage curve", better="lower", unit="1")

_CURVE_POINTS = 50


def risk_coverage(
    records: Records, confidence: NDArray[np.float64], correct: NDArray[np.bool_], units: Units
) -> tuple[Metric, Finding]:
    """Return the area under the risk-coverage curve, and a finding with the curve and the effect of thresholds.

    Args:
        records: What the images are called.
        confidence: Probability of the predicted class, (n,).
        correct: Whether the prediction is the label, (n,).
        units: The unit of each image, (n,).
    """
    from auditor import statistics

    wrong = ~correct
    interval = statistics.aurc_interval(confidence, wrong, units=units)
    area = Metric(name="aurc", **interval._asdict(), n=len(wrong), unit="1", units=statistics.count_units(units))
    risk = float(wrong.mean())
    finding = Finding(
        id="performance.calibration/risk-coverage",
        title="Selective classification",
        statement=f"Area under the risk-coverage curve {measured(area)} (n = {len(wrong)} {records.kind}). With these"
        f" {100 * risk:.1f} % errors, it is {number(statistics.least_aurc(risk))} if every error has a lower"
        f" confidence than every correct prediction, and {number(risk)} if the confidence tells nothing.",
        metric=area,
        evidence=[_curve(confidence, wrong, records.kind), _table(confidence, correct, units, records.kind)],
    )
    return area, finding


def _curve(confidence: NDArray[np.float64], wrong: NDArray[np.bool_], kind: str) -> Curve:
    import numpy as np

    from auditor import statistics

    _, coverage, risk = statistics.risk_coverage(confidence, wrong)
    shown = np.unique(np.linspace(0, len(risk) - 1, _CURVE_POINTS).astype(int))
    total = float(wrong.mean())
    perfect = [Point(x=1 - total, y=0.0), *(Point(x=c, y=1 - (1 - total) / c) for c in (1 - total / 2, 1.0) if c)]
    return Curve(
        title="Risk-coverage curve",
        x=Axis(label=f"{kind} accepted (coverage)", format="percent", low=0, high=1, unit="fraction"),
        y=Axis(label="errors among them (risk)", format="percent", low=0, unit="fraction"),
        series=[
            Series(name="model", points=[Point(x=float(coverage[i]), y=float(risk[i])) for i in shown]),
            Series(name="perfect order", points=perfect),
        ],
        caption="Each point is a threshold on the confidence.",
    )


def _table(confidence: NDArray[np.float64], correct: NDArray[np.bool_], units: Units, kind: str) -> Table:
    from auditor import statistics

    rows: list[list[Cell]] = []
    for threshold in THRESHOLDS:
        accepted = confidence >= threshold
        coverage = statistics.proportion("coverage", accepted, units=units)
        n = int(accepted.sum())
        accuracy = statistics.proportion("accuracy", correct[accepted], units=statistics.keep(units, accepted))
        rows.append([threshold, coverage.cell(), accuracy.cell() if n else None, n, int((~correct & accepted).sum())])
    formats: list[Any] = ["number", "percent", "percent", "count", "count"]
    return Table(
        title="Effect of a confidence threshold",
        columns=["threshold", "accepted", "accuracy of accepted", f"accepted {kind}", "errors among them"],
        formats=formats,
        rows=rows,
        caption=f"{kind.capitalize()} with a confidence of at least the threshold are accepted.",
    )
