"""Rank findings and numbers by how bad they are for the model.

The direction comes from the metric's spec. A metric whose spec says "neither" is never ranked by its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditor.findings.finding import AREAS, SEVERITIES, Area
from auditor.findings.record import (
    AuditRecord,
    FindingRecord,
    MetricRecord,
    MetricSpecRecord,
    ProbeRecord,
    metric_spec,
    spec_of,
)

_NOTABLE = 0.2
"""Badness from which an unjudged number is listed on page one."""

_UNKNOWN = 0.5
"""Badness of a number that cannot be compared; orders findings of one severity."""


class RankedFinding(NamedTuple):
    """A finding and its probe."""

    probe: ProbeRecord
    finding: FindingRecord


class RankedMetric(NamedTuple):
    """A metric and its probe."""

    probe: ProbeRecord
    metric: MetricRecord

    @property
    def spec(self) -> MetricSpecRecord:
        """What the metric means."""
        return spec_of(self.probe, self.metric)


def is_comparable(metric: MetricRecord, spec: MetricSpecRecord) -> bool:
    """Whether a metric is a fraction from 0 to 1 with a better direction."""
    value = metric["value"]
    return metric["unit"] == "fraction" and spec["better"] != "neither" and value is not None and 0 <= value <= 1


def badness(metric: MetricRecord, spec: MetricSpecRecord) -> float:
    """Return how bad a fraction is, from 0 (best) to 1 (worst); 0.5 for a number that cannot be compared."""
    value = metric["value"]
    if value is None or metric["unit"] != "fraction" or spec["better"] == "neither":
        return _UNKNOWN
    return value if spec["better"] == "lower" else 1 - value


def perturbation_size(metric: MetricRecord | None) -> float:
    """Return the epsilon of a metric, 0 without one. The smaller the perturbation, the worse a bad number."""
    epsilon = metric["at"].get("epsilon") if metric else None
    return float(epsilon) if isinstance(epsilon, int | float) else 0.0


def worst_first(ranked: RankedMetric) -> tuple[float, float]:
    """Sort key of metrics: the worst first, at the smallest perturbation."""
    return -badness(ranked.metric, ranked.spec), perturbation_size(ranked.metric)


def comparable_metrics(probe: ProbeRecord) -> list[RankedMetric]:
    """Return a probe's metrics that can be compared with those of other probes."""
    return [RankedMetric(probe, metric) for metric in probe["metrics"] if is_comparable(metric, spec_of(probe, metric))]


def worst_findings(probes: Sequence[ProbeRecord], limit: int = 3, areas: Sequence[Area] = AREAS) -> list[RankedFinding]:
    """Return the findings with a severity, worst first; at most one of each probe."""
    ranked = [
        RankedFinding(probe, finding)
        for probe in probes
        for finding in probe["findings"]
        if probe["area"] in areas and finding["severity"] != "none"
    ]
    first: dict[str, RankedFinding] = {}
    for worst in sorted(ranked, key=_order):
        first.setdefault(worst.probe["id"], worst)
    return list(first.values())[:limit]


def worst_unjudged(audit: AuditRecord, limit: int = 3) -> list[RankedFinding]:
    """Return the worst key metrics that no threshold judged, as their findings, worst first.

    They complete page one if few findings have a severity. Sanity checks and explanations are left out: they do not
    measure how good the model is.
    """
    ranked = [
        RankedFinding(probe, finding)
        for probe in audit["probes"]
        if probe["status"] in ("informative", "inconclusive") and probe["area"] not in ("sanity", "explanations")
        if not probe.get("invalidated_by")
        for finding in probe["findings"][:1]
        if _is_notable(probe, finding)
    ]
    return sorted(ranked, key=_order)[:limit]


def _is_notable(probe: ProbeRecord, finding: FindingRecord) -> bool:
    """Whether a finding is about its probe's key metric and that is a bad one."""
    metric = finding["metric"]
    if metric is None or metric != probe["metrics"][0]:
        return False
    spec = spec_of(probe, metric)
    return is_comparable(metric, spec) and badness(metric, spec) >= _NOTABLE


def _order(ranked: RankedFinding) -> tuple[float, float, float]:
    metric = ranked.finding["metric"]
    specs = ranked.probe.get("metric_specs", [])
    bad = badness(metric, metric_spec(specs, metric["name"])) if metric else _UNKNOWN
    if metric and "against" in metric["at"]:
        # a gap with a high lower end is better established than a large gap of a small group
        bad = metric["low"] or 0.0
    return -SEVERITIES.index(ranked.finding["severity"]), -bad, perturbation_size(metric)
