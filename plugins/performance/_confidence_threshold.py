"""Effect of a threshold on the confidence, for ``performance.calibration``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor import Finding, Records, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.findings.evidence import Cell

_THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
_MAX_ATTACKS = 4


def threshold_finding(records: Records, confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Finding:
    """Report the share of correct, wrong and adversarial images below each threshold."""
    subsets = {"correct": confidence[correct], "wrong": confidence[~correct]}
    subsets |= {f"adversarial ({name})": values for name, values in _adversarial_confidence(records).items()}
    means = ", ".join(f"{name} {100 * values.mean():.0f} %" for name, values in subsets.items() if len(values))
    return Finding(
        id="performance.calibration/threshold",
        title="Protection by a confidence threshold",
        statement=f"Mean confidence: {means} (n = {len(confidence)} {records.kind}).",
        n=len(confidence),
        evidence=[_table(records, confidence, subsets)],
    )


def _table(records: Records, confidence: NDArray[np.float64], subsets: dict[str, NDArray[np.float64]]) -> Table:
    from auditor import statistics

    rows: list[list[Cell]] = []
    for threshold in _THRESHOLDS:
        cells = [
            statistics.proportion("rejected", values < threshold).cell() if len(values) else None
            for values in (confidence, *subsets.values())
        ]
        rows.append([threshold, *cells])
    formats: list[Any] = ["percent"] * (1 + len(subsets))
    return Table(
        title="Share below a confidence threshold",
        columns=["threshold", f"all {records.kind}", *subsets],
        formats=["number", *formats],
        rows=rows,
        caption="These attacks do not maximise confidence; attacks that do would be rejected less often.",
    )


def _adversarial_confidence(records: Records) -> dict[str, NDArray[np.float64]]:
    """Return each attack's confidences in the wrong prediction, at the smallest successful size of each image."""
    found: dict[str, NDArray[np.float64]] = {}
    for probe_id, frame in records.others.items():
        if not {"success", "norm", "confidence", "linf"} <= set(frame.columns):
            continue
        successes = frame[frame["success"].astype(bool) & (frame["norm"] == "linf")]
        first = successes.sort_values("linf", kind="stable").drop_duplicates("image_id")
        if len(first):
            found[probe_id.removeprefix("attacks.")] = first["confidence"].to_numpy(dtype=float)
    return dict(list(found.items())[:_MAX_ATTACKS])
