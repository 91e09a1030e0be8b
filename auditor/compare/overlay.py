"""Curves of several runs in one figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditor.compare.runs import ProbeResult, Run
from auditor.findings.record import CurveRecord, PointRecord, SeriesRecord

MAX_LINES = 6
"""Lines of a figure; of more lines, those that differ most are drawn."""

_Lines = dict[str, list[PointRecord]]
"""The lines of a curve by name."""


def overlay(runs: Sequence[Run], results: Sequence[ProbeResult]) -> Iterator[CurveRecord]:
    """Yield the curves that every run has, with the lines of all runs in one figure."""
    curves = [_curves(result) for result in results]
    for key, curve in curves[0].items():
        if not all(key in each for each in curves):
            continue
        lines = [{series["name"]: series["points"] for series in each[key]["series"]} for each in curves]
        names = _comparable_lines(lines)
        limit = max(1, MAX_LINES // len(runs))
        kept = sorted(names, key=lambda name: -_distance([each[name] for each in lines]))[:limit]
        if kept:
            yield _figure(curve, runs, lines, names, sorted(kept, key=names.index))


def _curves(result: ProbeResult) -> dict[tuple[str, str], CurveRecord]:
    return {
        (finding["id"], evidence["title"]): evidence
        for finding in result.findings
        for evidence in finding["evidence"]
        if evidence["kind"] == "curve"
    }


def _comparable_lines(lines: Sequence[_Lines]) -> list[str]:
    """Return the lines that every run has and that have intervals; a reference line has none."""
    return [
        name
        for name, points in lines[0].items()
        if all(name in each for each in lines) and any(point["low"] is not None for point in points)
    ]


def _figure(
    curve: CurveRecord, runs: Sequence[Run], lines: Sequence[_Lines], names: Sequence[str], kept: Sequence[str]
) -> CurveRecord:
    caption = "Bands are the 95 % intervals of each run; the test of the difference is in the table."
    if len(kept) < len(names):
        caption += f" The {len(kept)} of {len(names)} lines that differ most."
    series: list[SeriesRecord] = [
        {"name": run.name if len(names) == 1 else f"{run.name}: {name}", "points": each[name]}
        for name in kept
        for run, each in zip(runs, lines, strict=True)
    ]
    return {**curve, "caption": caption, "series": series}


def _distance(lines: Sequence[Sequence[PointRecord]]) -> float:
    """Return the largest difference between lines at a common x."""
    known = [{point["x"]: point["y"] for point in line if point["y"] is not None} for line in lines]
    shared = set.intersection(*(set(each) for each in known))
    return max((max(each[x] for each in known) - min(each[x] for each in known) for x in shared), default=0.0)
