"""The check that intervals are over units: ten copies of every image, each original a unit, tell no more than one.

``conclude`` runs on the records of a finished audit, as they are and with every image ten times. A probe that takes the
copies for independent images gets intervals of a third of the width.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.conformance.subject import Breach
from auditor.errors import NotApplicable
from auditor.findings.encoding import plain
from auditor.findings.evidence import Curve, Table
from auditor.findings.finding import Conclusion
from auditor.findings.metric import Metric
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Records, no_examples
from auditor.run.folder import read_rows
from auditor.run.selection import depends_on

if TYPE_CHECKING:
    import pandas as pd

    from auditor.findings.record import AuditRecord

COPIES = 10

_NARROWEST = 0.6
"""Smallest ratio of the widths that resampling explains; copies taken for independent images give 0.32."""


def read_records(plugins: Registry, run: Path, audit: AuditRecord, probe_id: str) -> tuple[Probe, Records]:
    """Return a probe of a finished audit with its settings, and its records.

    Raises NotApplicable if it was not measured.
    """
    measured = {record["id"]: record for record in audit["probes"] if record["status"] not in {"error"}}
    record = measured.get(probe_id)
    if record is None or record["status"] == "not-applicable":
        raise NotApplicable(record["reason"] if record else "was not measured")
    probe = plugins.configure(probe_id, record["settings"], where="audit.json")
    keys = json.loads((run / "manifest.json").read_bytes())["records"]
    others = [each for each in keys if each in measured and depends_on(probe, each)]
    frames = {each: read_rows(run, each, keys[each]) for each in [probe_id, *others]}
    known = {each: frame for each, frame in frames.items() if frame is not None}
    if probe_id not in known:
        raise NotApplicable("has no records")
    threats = {each: threat for each in others if (threat := plugins.probes[each]().threat_model()) is not None}
    records = Records(
        frame=known.pop(probe_id),
        examples=no_examples(),
        classes=audit["model"]["classes"],
        labelled=audit["data"]["labelled"],
        kind=audit["data"].get("kind", "images"),
        others=known,
        threats=threats,
    )
    return probe, records


def copied(records: Records) -> Records:
    """Return the records with every image ten times and its id as the unit of its copies."""
    others = {probe_id: _copied(frame) for probe_id, frame in records.others.items()}
    return dataclasses.replace(records, frame=_copied(records.frame), others=others)


def _copied(frame: pd.DataFrame) -> pd.DataFrame:
    import numpy as np

    if "image_id" not in frame or not len(frame):
        return frame
    rows = np.repeat(np.arange(len(frame)), COPIES)
    copies = frame.iloc[rows].reset_index(drop=True)
    names = copies["image_id"] + [f", copy {i % COPIES}" for i in range(len(rows))]
    return copies.assign(unit=copies["image_id"], image_id=names)


def check_units(probe: Probe, records: Records) -> list[tuple[Metric, Metric]]:
    """Check that ten copies of every image, with the original as their unit, do not give narrower intervals.

    Returns the metrics with an interval, of the records and of the copies.

    Raises:
        Breach: if an interval of a metric, a table or a curve is narrower.
        NotApplicable: if the probe returns no metric with an interval.
    """
    before, after = probe.conclude(records), probe.conclude(copied(records))
    one, ten = ({_key(metric): metric for metric in conclusion.metrics} for conclusion in (before, after))
    known = {key: metric for key, metric in one.items() if _width(metric) > 0}
    if not known:
        raise NotApplicable("returns no metric with an interval")
    for key, metric in known.items():
        if key not in ten:
            raise Breach(f"of ten copies of every image, conclude returns no metric {metric.name} at {key[1]}")
        _check_width(f"the interval of {metric.name}", _width(metric), _width(ten[key]))
        if ten[key].units is None:
            raise Breach(f"metric {metric.name} does not state its number of units; set Metric.units")
    widths, copies = _drawn_widths(before), _drawn_widths(after)
    for place, width in widths.items():
        if width > 0 and place in copies:
            _check_width(f"an interval in {place[1]!r} ({', '.join(place[2:])})", width, copies[place])
    return [(metric, ten[key]) for key, metric in known.items()]


def _key(metric: Metric) -> tuple[str, str]:
    return metric.name, json.dumps(plain(metric.at), sort_keys=True)


def _check_width(name: str, one: float, ten: float) -> None:
    if ten < _NARROWEST * one:
        raise Breach(
            f"with ten copies of every image, {name} is {ten / one:.2f} times as wide;"
            ' give units=records.frame.get("unit") to the functions of auditor.statistics'
        )


def _drawn_widths(conclusion: Conclusion) -> dict[tuple[str, ...], float]:
    """Return the widths of the intervals in tables and curves by finding, title, row or line, and column or x."""
    widths: dict[tuple[str, ...], float] = {}
    for finding in conclusion.findings:
        for item in finding.evidence:
            if isinstance(item, Table):
                for row in item.rows:
                    name = " ".join(str(cell) for cell in row if isinstance(cell, str))
                    for column, cell in zip(item.columns, row, strict=True):
                        if isinstance(cell, Mapping):
                            ends = cell["low"], cell["high"]
                            widths[finding.id, item.title, name, column] = _length(*ends)
            elif isinstance(item, Curve):
                for line in item.series:
                    for point in line.points:
                        widths[finding.id, item.title, line.name, f"{point.x:.6g}"] = _length(point.low, point.high)
    return widths


def _width(metric: Metric) -> float:
    """Return the width of the interval; 0 without one."""
    return _length(metric.low, metric.high)


def _length(low: float | None, high: float | None) -> float:
    return 0.0 if low is None or high is None or not math.isfinite(high - low) else high - low
