"""Published numbers next to the measured ones: tables, and curves in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from auditor.findings import formatting
from auditor.findings.encoding import plain
from auditor.findings.evidence import Axis, Curve, Point, Series, Table
from auditor.findings.record import (
    AuditRecord,
    DocumentedRecord,
    DocumentedRowRecord,
    EvidenceRecord,
    MetricRecord,
    MetricSpecRecord,
    metric_spec,
    unknown_spec,
)


class Line(NamedTuple):
    """One published number of this model as text."""

    owner: str
    """The series or the probe; for a sweep with the label of the metric."""
    name: str
    documented: str
    measured: str
    comparison: str


def claims(audit: AuditRecord) -> list[tuple[DocumentedRecord, list[EvidenceRecord]]]:
    """Return each published claim about this model with its table; the first claim of a figure also with its curve.

    Audits of older versions have none.
    """
    entries = audit.get("documented", [])
    drawn: set[str] = set()
    found = []
    for entry in entries:
        if not entry["this_model"]:
            continue
        spec = _spec(audit, entry)
        evidence: list[Any] = []
        if entry["over"] and len(entry["rows"]) > 1 and _figure(entry) not in drawn:
            drawn.add(_figure(entry))
            evidence.append(plain(_curve([other for other in entries if _figure(other) == _figure(entry)], spec)))
        found.append((entry, [*evidence, plain(_table(entry, spec))]))
    return found


def lines(audit: AuditRecord) -> list[Line]:
    """Return a line per published number of this model, for terminal and Markdown."""
    return [
        _line(entry, row, _spec(audit, entry))
        for entry in audit.get("documented", [])
        if entry["this_model"]
        for row in entry["rows"]
    ]


def _line(entry: DocumentedRecord, row: DocumentedRowRecord, spec: MetricSpecRecord) -> Line:
    measured: MetricRecord = {
        "name": entry["metric"],
        "value": row["value"],
        "low": row["low"],
        "high": row["high"],
        "n": row["n"] or 0,
        "unit": entry["unit"],
        "at": {},
    }
    documented: MetricRecord = {**measured, "value": row["documented"], "low": None, "high": None}
    owner, label = entry["series"] or entry["probe"], spec["label"]
    return Line(
        # the lines of a sweep share the label; the setting must not be cut off
        owner=f"{owner}, {formatting.lower(label)}" if entry["over"] else owner,
        name=formatting.measured_at(row["at"]) if entry["over"] else label + formatting.place(row["at"]),
        documented=formatting.measured(documented, spec),
        measured=formatting.measured(measured, spec),
        comparison=row["reading"],
    )


def _spec(audit: AuditRecord, entry: DocumentedRecord) -> MetricSpecRecord:
    for probe in audit["probes"]:
        if probe["id"] == entry["probe"]:
            return metric_spec(probe.get("metric_specs", []), entry["metric"])
    return unknown_spec(entry["metric"])


def _figure(entry: DocumentedRecord) -> str:
    return entry["figure"] or entry["claim"]


def _style(entry: DocumentedRecord) -> Literal["percent", "number"]:
    return "percent" if entry["unit"] == "fraction" else "number"


def _table(entry: DocumentedRecord, spec: MetricSpecRecord) -> Table:
    over, style = entry["over"], _style(entry)
    rows: list[list[Any]] = [
        [
            row["at"].get(over) if over else spec["label"],
            row["documented"],
            {"value": row["value"], "low": row["low"], "high": row["high"]},
            row["n"],
            row["reading"],
        ]
        for row in entry["rows"]
    ]
    return Table(
        title=f"{entry['series']}: documented and measured" if entry["series"] else "",
        columns=[over or "metric", "documented", "measured", "n", "comparison"],
        rows=rows,
        formats=["number" if over else "text", style, style, "count", "text"],
    )


def _curve(entries: Sequence[DocumentedRecord], spec: MetricSpecRecord) -> Curve:
    """Draw the published curves, also of other models, and this model's curve with its interval."""
    over, style = entries[0]["over"], _style(entries[0])
    series = [_published(entry, over) for entry in entries]
    own = _measured(entries, over)
    if own:
        series.insert(0, Series(name="this model, measured", points=own))
    xs = [point.x for line in series for point in line.points]
    whole = style == "percent"
    return Curve(
        title=_figure(entries[0]),
        x=Axis(label=over, scale=_scale(xs)),
        y=Axis(label=spec["label"], format=style, low=0 if whole else None, high=1 if whole else None),
        series=series,
        caption="Documented numbers were measured on other images, often by other rules. The band is the 95 % interval"
        " of the measured numbers.",
    )


def _published(entry: DocumentedRecord, over: str) -> Series:
    points = [Point(x=_x(row, over), y=row["documented"]) for row in entry["rows"]]
    return Series(name=f"{entry['series'] or entry['claim']}, documented", points=points)


def _measured(entries: Sequence[DocumentedRecord], over: str) -> list[Point]:
    """Return this model's points in the order of x; of several at one place the last."""
    points = {
        _x(row, over): Point(x=_x(row, over), y=row["value"], low=row["low"], high=row["high"], n=row["n"])
        for entry in entries
        for row in entry["rows"]
        if row["value"] is not None
    }
    return [points[x] for x in sorted(points)]


def _x(row: DocumentedRowRecord, over: str) -> float:
    at = row["at"][over]
    assert isinstance(at, int | float)
    return float(at)


def _scale(xs: Sequence[float]) -> Literal["linear", "log", "symlog"]:
    """Choose a logarithmic axis for values that span more than a factor of 20."""
    smallest = min((x for x in xs if x > 0), default=max(xs))
    if max(xs) <= 20 * smallest:
        return "linear"
    return "log" if min(xs) > 0 else "symlog"
