"""Documented numbers against the measured ones: tables, and curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from auditor.findings import formatting
from auditor.findings.encoding import plain
from auditor.findings.evidence import Axis, Curve, Point, Series, Table

Record = Mapping[str, Any]
_NO_INTERVAL = {"low": None, "high": None}


def examples(audit: Record) -> list[tuple[Record, list[Any]]]:
    """Each documented claim of this model with its table; the first of a figure also with its curve. Audits of older
    versions have none."""
    entries: Sequence[Record] = audit.get("documented", [])
    drawn: set[str] = set()
    found = []
    for entry in entries:
        if not entry["this_model"]:
            continue
        evidence = []
        if entry["over"] and len(entry["rows"]) > 1 and _figure(entry) not in drawn:
            drawn.add(_figure(entry))
            evidence.append(plain(_curve([other for other in entries if _figure(other) == _figure(entry)])))
        found.append((entry, [*evidence, plain(_table(entry))]))
    return found


def lines(audit: Record) -> list[tuple[str, str, str, str]]:
    """For terminal and Markdown, a line per documented number of this model: what it is, documented, measured, how they
    compare."""
    found = []
    for entry in audit.get("documented", []):
        for row in entry["rows"] if entry["this_model"] else []:
            metric = {"name": entry["metric"], "unit": entry["unit"], "at": row["at"]}
            documented = formatting.measured({**metric, "value": row["documented"], **_NO_INTERVAL})
            measured = formatting.measured({**metric, **{key: row[key] for key in ("value", "low", "high")}})
            whose, name = entry["series"] or entry["probe"], formatting.name(metric)
            # of a sweep the name is the same in every line: where it was measured must not be cut off for it
            swept = f"{whose}, {formatting.lower(name)}: {formatting.measured_at(row['at'])}"
            what = swept if entry["over"] else f"{whose}: {name}{formatting.place(metric)}"
            found.append((what, documented, measured, row["reading"]))
    return found


def _figure(entry: Record) -> str:
    return str(entry["figure"] or entry["claim"])


def _style(entry: Record) -> Literal["percent", "number"]:
    return "percent" if entry["unit"] == "fraction" else "number"


def _table(entry: Record) -> Table:
    over, style = entry["over"], _style(entry)
    rows = [
        [
            row["at"].get(over) if over else formatting.name({"name": entry["metric"]}),
            row["documented"],
            {key: row[key] for key in ("value", "low", "high")},
            row["n"],
            row["reading"],
        ]
        for row in entry["rows"]
    ]
    return Table(
        title=f"{entry['series']}: documented beside measured" if entry["series"] else "",
        columns=[over or "number", "documented", "measured here", "n", "comparison"],
        rows=rows,
        formats=["number" if over else "text", style, style, "count", "text"],
    )


def _curve(entries: Sequence[Record]) -> Curve:
    """The documented curves, of other models too, and this model's with its interval."""
    over, style = entries[0]["over"], _style(entries[0])
    own: dict[float, Point] = {}
    series = []
    for entry in entries:
        points = []
        for row in entry["rows"]:
            place = float(row["at"][over])
            points.append(Point(x=place, y=row["documented"]))
            if row["value"] is not None:
                own[place] = Point(x=place, y=row["value"], low=row["low"], high=row["high"], n=row["n"])
        series.append(Series(name=f"{entry['series'] or entry['claim']}, documented", points=points))
    if own:
        series.insert(0, Series(name="this model, measured here", points=[own[place] for place in sorted(own)]))
    places = [point.x for line in series for point in line.points]
    wide = max(places) > 20 * min((place for place in places if place > 0), default=max(places))
    scale: Literal["linear", "log", "symlog"] = "linear" if not wide else "log" if min(places) > 0 else "symlog"
    whole = style == "percent"
    return Curve(
        title=_figure(entries[0]),
        x=Axis(label=over, scale=scale),
        y=Axis(label=formatting.name({"name": entries[0]["metric"]}), format=style, low=0 if whole else None,
               high=1 if whole else None),
        series=series,
        caption="Documented numbers were measured on other images, often by other rules. The band is the 95 % interval"
        " of what was measured here.",
    )  # fmt: skip
