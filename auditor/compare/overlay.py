"""Curves of several runs in one chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from auditor.compare.runs import Part, Run

_MOST_LINES = 6
"""Lines of an overlaid figure; of more, those that differ most."""


def overlay(runs: Sequence[Run], parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    """The curves that every run has, with all runs' lines in one figure; of many lines those that differ most."""
    drawn: list[dict[tuple[str, str], dict[str, Any]]] = [
        {
            (finding["id"], evidence["title"]): evidence
            for finding in part.findings
            for evidence in finding["evidence"]
            if evidence["kind"] == "curve"
        }
        for part in parts
    ]
    for key, curve in drawn[0].items():
        if not all(key in each for each in drawn):
            continue
        lines = [{series["name"]: series["points"] for series in each[key]["series"]} for each in drawn]
        names = [name for name in lines[0] if all(name in each for each in lines)]
        # a line without intervals (a reference, a variant of the first) stays out
        names = [name for name in names if any(point["low"] is not None for point in lines[0][name])]
        most = max(1, _MOST_LINES // len(runs))
        kept = sorted(names, key=lambda name: -_apart([each[name] for each in lines]))[:most]
        if not kept:
            continue
        caption = "Bands are 95 % intervals of each run by itself; the test of the difference is in the table."
        if len(kept) < len(names):
            caption += f" The {len(kept)} of {len(names)} lines that differ most."
        yield {
            **{name: curve[name] for name in ("kind", "title", "x", "y")},
            "caption": caption,
            "series": [
                {"name": run.name if len(names) == 1 else f"{run.name}: {name}", "points": each[name]}
                for name in sorted(kept, key=names.index)
                for run, each in zip(runs, lines, strict=True)
            ],
        }


def _apart(lines: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    """The largest difference between lines at a place that they share."""
    known = [{point["x"]: point["y"] for point in line if point["y"] is not None} for line in lines]
    shared = set.intersection(*(set(each) for each in known))
    return max((max(each[x] for each in known) - min(each[x] for each in known) for x in shared), default=0.0)
