"""AUROC and false positive rate of scores for unknown inputs, for ``performance.unknown-inputs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import Axis, Conclusion, Curve, Finding, Metric, Point, Records, Series, Table
from auditor.findings.formatting import counted, percent
from auditor.plugins.performance._unknown_scores import KNOWN

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell
    from auditor.statistics import Interval

_SCORES = {"confidence": "maximum probability", "energy": "energy"}
_ROWS_SHOWN = 20
_CURVE_POINTS = 50
TPR = 0.95


def score_findings(records: Records) -> Conclusion:
    """Conclude from known and unknown images, at least one of each."""
    finite = records.frame[records.frame["confidence"].notna()]
    known = finite[finite["unknown"] == KNOWN]
    unknown = finite[finite["unknown"] != KNOWN]
    if known.empty or unknown.empty:
        return Conclusion(inconclusive="the model's scores of the unknown images are not finite")
    metrics, statements, curves = [], [], []
    for column, name in _SCORES.items():
        if column == "energy" and (reason := _without_energy(finite)):
            statements.append(f"The energy was not measured: {reason}.")
            continue
        auroc, rate, roc = _separation(finite, column, name)
        metrics += [auroc, rate]
        statements.append(
            f"{name.capitalize()}: AUROC {percent(auroc)}; a threshold that accepts {100 * TPR:.0f} % of the known"
            f" {records.kind} accepts {percent(rate)} of the unknown ones."
        )
        curves.append(roc)
    left_out = len(records.frame) - len(finite)
    if left_out:
        statements.append(f"{counted(left_out, 'unknown image')} without finite scores are left out.")
    statements.append(f"Measured on {len(known)} known and {len(unknown)} unknown {records.kind}.")
    finding = Finding(
        id="performance.unknown-inputs/separation",
        title="Known against unknown inputs",
        statement=" ".join(statements),
        metric=metrics[0],
        evidence=[_roc(curves), _classes(unknown, records)],
    )
    return Conclusion(metrics=metrics, findings=[finding])


def _without_energy(frame: pd.DataFrame) -> str:
    """Return why there is no energy; empty if there is one."""
    reason = str(frame["no_energy"].iloc[0])
    if not reason and frame["energy"].abs().max() < 1e-3:
        return "the scores are log-probabilities, whose energy is always 0; export the model without its log-softmax"
    return reason


def _separation(frame: pd.DataFrame, column: str, name: str) -> tuple[Metric, Metric, Series]:
    """Return AUROC, false positive rate and ROC curve of one score."""
    import numpy as np

    from auditor import statistics

    scores, known = frame[column].to_numpy(dtype=float), (frame["unknown"] == KNOWN).to_numpy()
    units = _units(frame, known)
    n, n_units = len(frame), statistics.count_units(units) if "unit" in frame else None
    at = {"score": name}
    area = statistics.bootstrap_weighted(n, lambda w: statistics.binary_roc_auc(known, scores, w), units=units)
    rate = statistics.bootstrap_weighted(n, lambda w: statistics.false_positive_rate(known, scores, w), units=units)
    sides = (known, ~known)
    pairs = min(statistics.effective_n(np.ones(side.sum()), statistics.keep(units, side)) for side in sides)
    unknown = statistics.effective_n(np.ones((~known).sum()), statistics.keep(units, ~known))
    return (
        Metric(name="unknown_auroc", **_not_a_point(area, pairs)._asdict(), n=n, units=n_units, at=at),
        Metric(name="unknown_fpr_at_95_tpr", **_not_a_point(rate, unknown)._asdict(), n=n, units=n_units, at=at),
        Series(name=name, points=_roc_points(scores, known)),
    )


def _units(frame: pd.DataFrame, known: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Return the unit of each row: that of the data, else the image; unknown images have their own."""
    import numpy as np

    own = (frame["unit"] if "unit" in frame else frame["image_id"]).astype(str)
    return np.array(np.where(known, "known " + own, "unknown " + frame["unknown_unit"].astype(str)), dtype=object)


def _not_a_point(found: Interval, n: float) -> Interval:
    """Replace an interval of one point, that of perfect or of no separation, by Wilson's for ``n`` independent images.

    For the AUROC, ``n`` is the number of disjoint pairs of a known and an unknown image.
    """
    from auditor import statistics

    if found.value in {0.0, 1.0} and found.low == found.high:
        return statistics.wilson(found.value * n, n)
    return found


def _roc_points(scores: NDArray[np.float64], known: NDArray[np.bool_]) -> list[Point]:
    """Return the share of known images above each threshold against that of unknown ones."""
    import numpy as np
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(known, scores)
    shown = np.unique(np.linspace(0, len(false) - 1, _CURVE_POINTS).astype(int))
    return [Point(x=float(false[i]), y=float(true[i])) for i in shown]


def _roc(series: list[Series]) -> Curve:
    diagonal = Series(name="chance", points=[Point(x=0, y=0), Point(x=1, y=1)])
    return Curve(
        title="Accepted images by threshold",
        x=Axis(label="unknown images accepted", format="percent", low=0, high=1, unit="fraction"),
        y=Axis(label="known images accepted", format="percent", low=0, high=1, unit="fraction"),
        series=[*series, diagonal],
        caption="Receiver operating characteristic; the known images are the positive class.",
    )


def _classes(unknown: pd.DataFrame, records: Records) -> Table:
    """Return the classes that the unknown images are assigned to, the most frequent first."""
    groups = sorted(unknown.groupby("assigned"), key=lambda group: -len(group[1]))
    rows: list[list[Cell]] = [
        [
            records.class_name(assigned),
            len(part),
            float(part["confidence"].mean()),
            str(part.loc[part["confidence"].idxmax(), "unknown"]),
        ]
        for assigned, part in groups[:_ROWS_SHOWN]
    ]
    return Table(
        title="Classes assigned to the unknown images",
        columns=["class", "n", "mean confidence", "most confident image"],
        formats=["text", "count", "percent", "text"],
        rows=rows,
        caption=f"The {len(rows)} most frequent of {len(groups)} classes." if len(groups) > len(rows) else "",
    )
