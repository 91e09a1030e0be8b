"""What the audit does not establish: missing, inconclusive and broken parts, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditor.findings.finding import AREAS, Status
from auditor.findings.record import AuditRecord, ProbeRecord, plugin_title
from auditor.report.summary import AREA_TITLES

STATUS_TEXTS: dict[Status, str] = {
    "error": "broke",
    "inconclusive": "inconclusive",
    "not-applicable": "not applicable",
}
"""Statuses without a result, in words."""

_FEW = 3
"""Up to this many probes of one kind get a line each; more share a line."""


class Gap(NamedTuple):
    """A part of the audit without a result, and the reason."""

    part: str
    reason: str
    broken: bool
    """True if it broke, False if it was left out."""


def gaps(audit: AuditRecord) -> list[Gap]:
    """List what was not measured, is inconclusive or broke: broken parts first, then the widest ones."""
    found = [*_broken_inputs(audit), *_missing(audit), *_without_result(audit["probes"])]
    return sorted(found, key=lambda gap: not gap.broken)


def _broken_inputs(audit: AuditRecord) -> list[Gap]:
    found = [Gap(f"plugin {plugin_title(p)}", p["error"], True) for p in audit["plugins"] if p["error"]]
    unreadable = audit["data"]["n_unreadable"]
    if unreadable:
        found.append(Gap(f"{unreadable} unreadable images", "skipped; the record names them", True))
    return found


def _missing(audit: AuditRecord) -> list[Gap]:
    found = []
    if not audit["data"]["labelled"]:
        reason = "the images have no labels; the model's own predictions replace them"
        found.append(Gap("accuracy and bias", reason, False))
    if audit["model"]["access"] == "black-box":
        found.append(Gap("white-box attacks", audit["model"]["access_reason"], False))
    areas = {probe["area"] for probe in audit["probes"]}
    absent = [AREA_TITLES[area] for area in AREAS if area not in areas]
    if absent:
        found.append(Gap(", ".join(absent), "the suite has no probe of this area", False))
    return found


def _without_result(probes: Sequence[ProbeRecord]) -> list[Gap]:
    """List the probes that broke or could not judge; probes with the same reason share a line."""
    groups: dict[tuple[Status, str], list[ProbeRecord]] = {}
    n_inconclusive = sum(probe["status"] == "inconclusive" and not probe.get("invalidated_by") for probe in probes)
    for probe in probes:
        reason = probe["reason"] or "no reason recorded"
        if "invalidated_by" in probe:
            reason = f"no evidence, because {probe['invalidated_by']} failed"
        elif probe["status"] == "inconclusive" and n_inconclusive >= _FEW:
            reason = "too little evidence for pass or fail; the reason is listed with each probe"
        if probe["status"] in STATUS_TEXTS:
            groups.setdefault((probe["status"], reason), []).append(probe)
    return [
        Gap(f"{_names(group)}: {STATUS_TEXTS[status]}", reason, status == "error")
        for (status, reason), group in groups.items()
    ]


def _names(probes: Sequence[ProbeRecord]) -> str:
    if len(probes) == 1:
        return f"{probes[0]['title']} ({probes[0]['id']})"
    ids = [probe["id"] for probe in probes]
    listed = ids if len(ids) <= _FEW + 1 else [*ids[:_FEW], f"and {len(ids) - _FEW} more"]
    return f"{len(probes)} probes ({', '.join(listed)})"
