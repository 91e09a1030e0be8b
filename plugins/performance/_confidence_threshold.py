"""Effect of a threshold on the confidence, for ``performance.calibration``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from auditor import Finding, Records, Table

if TYPE_CHECKING:
    import pandas as pd

    from auditor.findings.evidence import Cell

THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
_MAX_ATTACKS = 4


def threshold_finding(records: Records) -> Finding:
    """Report the share of correct, wrong and adversarial images below each threshold."""
    frame = records.frame
    correct = frame["prediction"] == frame["label"]
    subsets = {"correct": frame[correct], "wrong": frame[~correct]}
    subsets |= {f"adversarial ({name})": rows for name, rows in _adversarial_confidence(records).items()}
    means = ", ".join(f"{name} {100 * rows['confidence'].mean():.0f} %" for name, rows in subsets.items() if len(rows))
    return Finding(
        id="performance.calibration/threshold",
        title="Protection by a confidence threshold",
        statement=f"Mean confidence: {means} (n = {len(frame)} {records.kind}).",
        n=len(frame),
        evidence=[_table(records, subsets)],
    )


def _table(records: Records, subsets: dict[str, pd.DataFrame]) -> Table:
    from auditor import statistics

    rows: list[list[Cell]] = []
    for threshold in THRESHOLDS:
        cells = [
            statistics.proportion("rejected", part["confidence"] < threshold, units=part.get("unit")).cell()
            if len(part)
            else None
            for part in (records.frame, *subsets.values())
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


def _adversarial_confidence(records: Records) -> dict[str, pd.DataFrame]:
    """Return the rows of each attack's wrong predictions, at the smallest successful size of each image."""
    found: dict[str, pd.DataFrame] = {}
    for probe_id, frame in records.others.items():
        if not {"success", "norm", "confidence", "linf"} <= set(frame.columns):
            continue
        successes = frame[frame["success"].astype(bool) & (frame["norm"] == "linf")]
        first = successes.sort_values("linf", kind="stable").drop_duplicates("image_id")
        if len(first):
            found[probe_id.removeprefix("attacks.")] = first
    return dict(list(found.items())[:_MAX_ATTACKS])
