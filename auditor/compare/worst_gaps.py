"""The worst gaps between groups of each run of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.compare.runs import Run
from auditor.findings.comparison_record import RunGapRecord
from auditor.report.group_gaps import group_gaps

_LIMIT = 3
"""Gaps of each run."""


def worst_gaps(runs: Sequence[Run]) -> list[RunGapRecord]:
    """Return the worst significant gaps between groups of each run, on all of its images."""
    return [
        {
            "run": number,
            "finding": entry.finding["id"],
            "severity": entry.finding["severity"],
            "statement": entry.finding["statement"],
        }
        for number, run in enumerate(runs)
        for entry in group_gaps(run.audit, _LIMIT).worst
    ]
