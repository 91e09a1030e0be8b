"""Page one in numbers: counts, key metrics of the areas, and helpers shared by all report formats.

Everything is derived from audit.json alone, so that terminal, report and Markdown summary agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PureWindowsPath
from typing import NamedTuple

from auditor.findings import formatting
from auditor.findings.finding import AREAS, SEVERITIES, Area, Severity, Status
from auditor.findings.record import AcceptanceStateRecord, AuditRecord, MetricRecord, ProbeRecord, spec_of
from auditor.report.ranking import badness, is_comparable
from auditor.report.risks import risks

STATUSES: tuple[Status, ...] = ("pass", "fail", "inconclusive", "informative", "not-applicable", "error")

AREA_TITLES: dict[Area, str] = {
    "performance": "Performance",
    "attacks": "Adversarial attacks",
    "corruptions": "Common corruptions",
    "metrics": "Robustness metrics",
    "bias": "Bias",
    "explanations": "Explanations",
    "sanity": "Sanity of the audit",
}

_MOST_TELLING: tuple[Status, ...] = ("fail", "pass", "inconclusive", "informative")
"""Statuses of probes with results; the first ones represent their area on page one."""


class Counts(NamedTuple):
    """Probes by status, and findings by severity."""

    status: dict[Status, int]
    severity: dict[Severity, int]


class AreaSummary(NamedTuple):
    """One area in one line of page one."""

    area: Area
    title: str
    outcomes: Sequence[tuple[Status, int]]
    """Statuses and their number of probes, without zeros."""
    probe: ProbeRecord | None
    """The probe that represents the area: a failed one, else a judged one, else a measured one."""
    metric: MetricRecord | None
    """Its failed metric, else its key metric."""


def file_name(path: str) -> str:
    """Return the last part of a path of any system."""
    return PureWindowsPath(path).name or path


def key_metric(probe: ProbeRecord) -> MetricRecord | None:
    """Return the first metric of a probe, if it has any."""
    return probe["metrics"][0] if probe["metrics"] else None


def headline(probe: ProbeRecord) -> str:
    """Format the key metric with its interval; a dash without one."""
    metric = key_metric(probe)
    return formatting.measured(metric, spec_of(probe, metric)) if metric else "-"


def key_sample_size(probe: ProbeRecord) -> str:
    """Format n of the key metric, with its units; without a key metric that of the probe."""
    metric = key_metric(probe)
    return formatting.sample_size(metric) if metric else str(probe["n"])


def metric_text(probe: ProbeRecord, metric: MetricRecord) -> str:
    """Format label and setting of a metric: ``Robust accuracy at L∞ 8/255``."""
    return spec_of(probe, metric)["label"] + formatting.place(metric["at"])


def counts(audit: AuditRecord) -> Counts:
    """Count the probes of each status and the findings of each severity."""
    status = Counter(probe["status"] for probe in audit["probes"])
    severity = Counter(finding["severity"] for probe in audit["probes"] for finding in probe["findings"])
    return Counts(
        status={name: status[name] for name in STATUSES},
        severity={name: severity[name] for name in reversed(SEVERITIES)},
    )


def in_areas(audit: AuditRecord, *areas: Area) -> list[ProbeRecord]:
    """Return the probes of these areas."""
    return [probe for probe in audit["probes"] if probe["area"] in areas]


def with_results(probes: Iterable[ProbeRecord]) -> list[ProbeRecord]:
    """Return the probes that ran to their end and whose numbers no failed check invalidates."""
    return [probe for probe in probes if probe["status"] in _MOST_TELLING and not probe.get("invalidated_by")]


def area_summaries(audit: AuditRecord) -> list[AreaSummary]:
    """Summarise every area by its outcomes and its key metric."""
    return [_area_summary(area, in_areas(audit, area)) for area in AREAS]


def _area_summary(area: Area, probes: Sequence[ProbeRecord]) -> AreaSummary:
    outcomes = Counter(probe["status"] for probe in probes)
    candidates = [
        (probe, metric)
        for probe in with_results(probes)
        if (metric := _telling_metric(probe)) is not None and metric["value"] is not None
    ]
    probe, metric = min(candidates, key=_represents, default=(None, None))
    listed = [(name, outcomes[name]) for name in STATUSES if outcomes[name]]
    return AreaSummary(area, AREA_TITLES[area], listed, probe, metric)


def _telling_metric(probe: ProbeRecord) -> MetricRecord | None:
    """Return the failed metric, so that number and status belong together; else the key metric."""
    failed = risks([probe])
    return failed[0].metric if failed and failed[0].metric else key_metric(probe)


def _represents(candidate: tuple[ProbeRecord, MetricRecord]) -> tuple[int, bool, float]:
    """Sort key: the most telling status first, then comparable numbers, the worst one first."""
    probe, metric = candidate
    spec = spec_of(probe, metric)
    return _MOST_TELLING.index(probe["status"]), not is_comparable(metric, spec), -badness(metric, spec)


def accepted(audit: AuditRecord) -> list[AcceptanceStateRecord]:
    """Return the failures that the policy accepts, with their state; audits of older versions have none."""
    return list(audit["policy"].get("accepted", []))
