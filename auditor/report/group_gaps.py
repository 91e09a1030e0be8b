"""The significant gaps between groups, worst first, and a sentence if there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.record import AuditRecord, MetricRecord, ProbeRecord, spec_of
from auditor.report.ranking import RankedFinding, RankedMetric

_PLACES = frozenset({"group", "slice"})
"""Keys of ``at`` for groups of images; a gap between classes is a matter of performance."""


class GroupGaps(NamedTuple):
    """The gaps of page one."""

    worst: Sequence[RankedFinding]
    """The significant gaps, at most ``limit``; the most severe first, then those with the highest lower end."""
    found: int
    """Number of significant gaps."""
    text: str
    """What was found if there is no significant gap, and how many more there are if not all are listed."""


def group_gaps(audit: AuditRecord, limit: int = 5) -> GroupGaps:
    """Return the significant gaps between groups of images."""
    found = sorted(
        (
            RankedFinding(probe, finding)
            for probe in audit["probes"]
            for finding in probe["findings"]
            if not probe.get("invalidated_by")
            and finding["metric"]
            and _is_gap(probe, finding["metric"])
            and (finding["metric"]["low"] or 0.0) > 0
        ),
        key=_worst_first,
    )
    if len(found) > limit:
        text = f"The {limit} worst of {len(found)} significant gaps; the section on bias lists all."
    elif found:
        text = ""
    elif void := next((p for p in audit["probes"] if p["area"] == "bias" and p.get("invalidated_by")), None):
        text = f"Gaps between groups are no evidence: {void['reason'].partition('; by itself: ')[0]}."
    elif largest_gap(audit):
        text = "No gap between groups is significant, which does not prove that there is none."
    else:
        text = "Gaps between groups were not measured."
    return GroupGaps(found[:limit], len(found), text)


def severity_text(severity: Severity) -> str:
    """Return the severity of a gap; "significant" without one, because no threshold was crossed or none is set."""
    return "significant" if severity == "none" else severity


def largest_gap(audit: AuditRecord) -> RankedMetric | None:
    """Return the gap between groups with the highest lower end, then the largest, of those that are fractions."""
    gaps = [
        RankedMetric(probe, metric)
        for probe in audit["probes"]
        for metric in probe["metrics"]
        if not probe.get("invalidated_by")
        and metric["value"] is not None
        and metric["unit"] == "fraction"
        and _is_gap(probe, metric)
    ]
    return max(gaps, key=lambda gap: (gap.metric["low"] or 0.0, gap.metric["value"] or 0.0), default=None)


def _is_gap(probe: ProbeRecord, metric: MetricRecord) -> bool:
    """Whether a metric compares two groups of which one is worse."""
    gap = "against" in metric["at"] and bool(_PLACES & set(metric["at"]))
    return gap and probe["area"] == "bias" and spec_of(probe, metric)["better"] == "lower"


def _worst_first(ranked: RankedFinding) -> tuple[int, bool, float]:
    metric = ranked.finding["metric"]
    assert metric is not None
    return -SEVERITIES.index(ranked.finding["severity"]), metric["unit"] != "fraction", -(metric["low"] or 0.0)
