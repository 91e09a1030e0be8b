"""What each run says about a probe, to be read side by side: its first finding, with one row of pictures."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.compare.runs import Run
from auditor.findings.comparison_record import SideRecord
from auditor.findings.record import FindingRecord, ImageGridRecord, ProbeRecord


def sides(runs: Sequence[Run], probe_id: str) -> list[SideRecord | None]:
    """Return the side of every run; None for a run without the probe or without a finding of it."""
    return [_side(run.probes[probe_id]) if probe_id in run.probes else None for run in runs]


def _side(probe: ProbeRecord) -> SideRecord | None:
    if not probe["findings"]:
        return None
    finding = probe["findings"][0]
    return {"statement": finding["statement"], "examples": _first_row(finding)}


def _first_row(finding: FindingRecord) -> ImageGridRecord | None:
    for each in finding["evidence"]:
        if each["kind"] == "image-grid" and each["rows"]:
            # half a page has no room for a column of labels
            first = each["rows"][0]
            return {**each, "rows": [{**first, "label": ""}], "title": first["label"], "caption": ""}
    return None
