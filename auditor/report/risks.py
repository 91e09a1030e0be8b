"""The failures that matter most: number, threshold, rationale and next action of each, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditor.findings import formatting
from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.record import EvidenceRecord, JudgementRecord, MetricRecord, ProbeRecord, spec_of
from auditor.report.ranking import RankedMetric, badness, comparable_metrics, worst_findings, worst_first
from auditor.report.remediation import Remedy, remedy


class Risk(NamedTuple):
    """A failed probe, by its worst failure."""

    probe: ProbeRecord
    severity: Severity
    metric: MetricRecord | None
    """The failed metric; None if the record does not name it."""
    threshold: str
    """The threshold that it missed: ``expected at least 70.0 %``; empty in records of older versions."""
    rationale: str
    """What the failure means."""
    remedy: Remedy | None
    """What to do; None for probes of plugins without an entry."""

    @property
    def text(self) -> str:
        """Format the number: ``robust accuracy falls from 98.8 % to 0.3 % [0.1, 1.9] at rotation 30 (n = 300)``."""
        return number_text(RankedMetric(self.probe, self.metric)) if self.metric else ""


def number_text(ranked: RankedMetric) -> str:
    """Format a number in a sentence, with the clean value that it is a loss from, if there is one."""
    metric, spec = ranked.metric, ranked.spec
    where, number = formatting.place(metric["at"]), formatting.measured(metric, spec)
    n = f"(n = {formatting.sample_size(metric)})"
    name = formatting.lower(spec["label"])
    if "against" in metric["at"]:
        return f"{name}{where}: {number} {n}"
    if "clean" not in metric:
        return f"{name}{where} is {number} {n}"
    if formatting.value(metric, spec) == formatting.formatted(metric["clean"], "percent"):
        return f"{name} is unchanged at {number}{where} {n}"
    verb = "falls" if (metric["value"] or 0.0) < metric["clean"] else "rises"
    return f"{name} {verb} from {formatting.formatted(metric['clean'], 'percent')} to {number}{where} {n}"


def risks(probes: Sequence[ProbeRecord], limit: int | None = None) -> list[Risk]:
    """Return the failed probes that count, by severity and then by loss."""
    failed = [probe for probe in probes if probe["status"] == "fail" and probe["severity"] != "none"]
    found = sorted(map(_risk, failed), key=_order)
    return found[:limit]


def finding_of(risk: Risk) -> str:
    """Return the id of the finding about a risk; of its probe's first finding if none is about the number."""
    findings = risk.probe["findings"]
    about = [f["id"] for f in findings if f["metric"] and risk.metric and f["metric"]["at"] == risk.metric["at"]]
    return next(iter([*about, *(finding["id"] for finding in findings)]), "")


def examples(risk: Risk) -> list[EvidenceRecord]:
    """Return the first figure or table, and the first image grid, of the finding about a risk."""
    name = finding_of(risk)
    evidence = [each for finding in risk.probe["findings"] if finding["id"] == name for each in finding["evidence"]]
    if not any(each["kind"] == "image-grid" for each in evidence):
        evidence += [each for f in risk.probe["findings"] for each in f["evidence"] if each["kind"] == "image-grid"]
    pictures = [each for each in evidence if each["kind"] == "image-grid"]
    figures = [each for each in evidence if each["kind"] not in ("image-grid", "text")]
    return [*figures[:1], *pictures[:1]]


def find_metric(probe: ProbeRecord, judgement: JudgementRecord) -> MetricRecord | None:
    """Return the metric that a judgement is about."""
    matching = (m for m in probe["metrics"] if m["name"] == judgement["metric"] and m["at"] == judgement["at"])
    return next(matching, None)


def threshold_text(probe: ProbeRecord, metric: MetricRecord, judgement: JudgementRecord) -> str:
    """Format the threshold of a judgement: ``expected at least 70.0 %``; empty in records of older versions."""
    if "limit" not in judgement or "side" not in judgement:
        return ""
    spec = spec_of(probe, metric)
    lost = judgement["side"] == "at_most_lost"
    limit = formatting.value(
        {**metric, "value": judgement["limit"]}, {**spec, "difference": lost or spec["difference"]}
    )
    sides = {"at_least": "at least", "at_most": "at most", "at_most_lost": "a loss of at most"}
    return f"expected {sides[judgement['side']]} {limit}"


def _risk(probe: ProbeRecord) -> Risk:
    failures = [
        (metric, judgement)
        for judgement in probe.get("judgements", [])
        if judgement["status"] == "fail" and judgement["severity"] == probe["severity"]
        if (metric := find_metric(probe, judgement))
    ]
    remedy_ = remedy(probe["id"])
    if failures:
        metric, judgement = min(failures, key=lambda pair: worst_first(RankedMetric(probe, pair[0])))
        threshold = threshold_text(probe, metric, judgement)
        # records of older versions have no rationale
        rationale = judgement.get("rationale") or probe["reason"]
        return Risk(probe, probe["severity"], metric, threshold, rationale, remedy_)
    return Risk(probe, probe["severity"], _named_metric(probe), "", probe["reason"], remedy_)


def _named_metric(probe: ProbeRecord) -> MetricRecord | None:
    """Return the number of the worst finding, else the worst comparable number: records of older versions."""
    for worst in worst_findings([probe], 1):
        if worst.finding["metric"]:
            return worst.finding["metric"]
    ranked = min(comparable_metrics(probe), key=worst_first, default=None)
    return ranked.metric if ranked else None


def _order(risk: Risk) -> tuple[int, float]:
    loss = 0.0
    if risk.metric is not None:
        value, clean = risk.metric["value"], risk.metric.get("clean")
        bad = badness(risk.metric, spec_of(risk.probe, risk.metric))
        loss = bad if value is None or clean is None else clean - value
    return -SEVERITIES.index(risk.severity), -loss
