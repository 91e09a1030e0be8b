"""The audit in five sentences, derived from audit.json alone."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.findings import formatting
from auditor.findings.finding import AREAS, Area
from auditor.findings.record import AuditRecord, ParityRecord, ProbeRecord
from auditor.report.gaps import STATUS_TEXTS
from auditor.report.group_gaps import group_gaps, largest_gap
from auditor.report.ranking import RankedMetric, comparable_metrics, worst_findings, worst_first
from auditor.report.summary import (
    AREA_TITLES,
    accepted,
    counts,
    file_name,
    in_areas,
    invalidated,
    key_metric,
    with_results,
)

_ALL_METHODS = "explanations.faithfulness"
"""The probe whose finding compares all explanation methods; it represents the area if nothing failed."""


def sentences(audit: AuditRecord) -> list[str]:
    """Return five sentences: subject, robustness, subgroup performance, explanations, confidence in this audit."""
    return [_subject(audit), _robustness(audit), _subgroups(audit), _explanations(audit), _confidence(audit)]


def _subject(audit: AuditRecord) -> str:
    model, data = audit["model"], audit["data"]
    kind = "labelled" if data["labelled"] else "unlabelled"
    text = (
        f"{file_name(model['path'])} ({len(model['classes'])} classes, SHA-256 {model['sha256'][:12]}) was audited with"
        f" the {audit['suite']} suite on {data['n']} {kind} {data.get('kind', 'images')}{formatting.of_units(data)}"
        f" from {data['path']};"
        f" the verdict is {audit['verdict'].upper()}"
    )
    reason = audit.get("verdict_reason")
    return _sentence(f"{text}: {reason}" if reason else text)


def _robustness(audit: AuditRecord) -> str:
    parts = [_worst_of(audit, "attacks", "attack"), _worst_of(audit, "corruptions", "corruption")]
    return _sentence("Robustness: " + "; ".join(parts))


def _worst_of(audit: AuditRecord, area: Area, noun: str) -> str:
    """Summarise one area by its failures, or by its worst number."""
    if nothing := invalidated(in_areas(audit, area)):
        return f"{noun}s are {nothing}"
    probes = with_results(in_areas(audit, area))
    if not any(_has_number(probe) for probe in probes):
        return f"{noun}s were not measured"
    failed = [probe for probe in probes if probe["status"] == "fail"]
    n_judged = sum(probe["status"] in ("pass", "fail") for probe in probes)
    if failed:
        text = f"{len(failed)} of {n_judged} judged {noun} probes failed"
        worst = _worst_failure(failed)
        return f"{_under(worst)}, and {text}" if worst else text
    inconclusive = any(probe["status"] == "inconclusive" for probe in probes)
    text = f"no judged {noun} probe failed" if n_judged else f"no {noun} could be judged"
    text += " (some are inconclusive)" if n_judged and inconclusive else ""
    ranked = sorted((ranked for probe in probes for ranked in comparable_metrics(probe)), key=worst_first)
    # at size 0 nothing is perturbed
    ranked = [each for each in ranked if each.metric["at"].get("epsilon") != 0]
    return f"{text}; the worst value at any level, judged or not, is {_under(ranked[0])}" if ranked else text


def _worst_failure(failed: Sequence[ProbeRecord]) -> RankedMetric | None:
    """Return the number of the worst finding of failed probes, else their worst comparable number."""
    for worst in worst_findings(failed, 1):
        if worst.finding["metric"]:
            return RankedMetric(worst.probe, worst.finding["metric"])
    ranked = [ranked for probe in failed for ranked in comparable_metrics(probe)]
    return min(ranked, key=worst_first, default=None)


def _has_number(probe: ProbeRecord) -> bool:
    return any(metric["value"] is not None for metric in probe["metrics"])


def _text(ranked: RankedMetric) -> str:
    """Format a number: ``robust accuracy 3.1 % [1.7, 5.6] at L∞ 4/255 (n = 256)``."""
    metric, spec = ranked.metric, ranked.spec
    where, number = formatting.place(metric["at"]), formatting.measured(metric, spec)
    text = f"{where}: {number}" if "against" in metric["at"] else f" {number}{where}"
    return f"{formatting.lower(spec['label'])}{text} (n = {formatting.sample_size(metric)})"


def _under(ranked: RankedMetric) -> str:
    return f"{_text(ranked)} in {ranked.probe['id']}"


def _subgroups(audit: AuditRecord) -> str:
    title = "Subgroup performance: "
    everything = in_areas(audit, "bias")
    if nothing := invalidated(everything):
        return _sentence(title + nothing)
    probes = with_results(everything)
    if not any(_has_number(probe) for probe in probes):
        void = any(probe.get("invalidated_by") for probe in everything)
        text = formatting.lower(group_gaps(audit, 1).text) if void else "not measured" + _because(everything)
        return _sentence(title + text)
    gaps, largest = group_gaps(audit, 1), largest_gap(audit)
    if gaps.worst:
        gap = "gap between groups is" if gaps.found == 1 else "gaps between groups are"
        text = f"{gaps.found} {gap} significant; worst: {gaps.worst[0].finding['statement'].rstrip('.')}"
    elif largest:
        text = f"no gap between groups is significant; the largest is {_under(largest)}"
    else:
        text = gaps.text[:1].lower() + gaps.text[1:].rstrip(".")
    return _sentence(f"{title}{text}; {_judgement(probes)}")


def _judgement(probes: Sequence[ProbeRecord]) -> str:
    failed = sum(probe["status"] == "fail" for probe in probes)
    judged = sum(probe["status"] in ("pass", "fail") for probe in probes)
    if judged:
        return f"{failed} of {judged} judged bias probes failed"
    inconclusive = [probe["id"] for probe in probes if probe["status"] == "inconclusive"]
    if inconclusive:
        return f"too little evidence to judge {', '.join(inconclusive)} (inconclusive)"
    return "the policy sets no threshold"


def _explanations(audit: AuditRecord) -> str:
    title = "Explanations: "
    everything = in_areas(audit, "explanations")
    if nothing := invalidated(everything):
        return _sentence(title + nothing)
    probes = sorted(with_results(everything), key=lambda probe: probe["id"] != _ALL_METHODS)
    worst = [ranked.finding["statement"] for ranked in worst_findings(probes, 1)]
    statements = worst or [finding["statement"] for probe in probes for finding in probe["findings"][:1]]
    if statements:
        return _sentence(title + statements[0])
    for probe in probes:
        metric = key_metric(probe)
        if metric is not None and metric["value"] is not None:
            return _sentence(title + _under(RankedMetric(probe, metric)))
    return _sentence(title + "not measured" + _because(everything))


def _because(probes: Sequence[ProbeRecord]) -> str:
    """Return why none of these probes has a number."""
    reasons = [probe["reason"].rstrip(". ") for probe in probes if probe["reason"]]
    return f" ({reasons[0]})" if reasons else " (no probe of this area ran)"


def _confidence(audit: AuditRecord) -> str:
    model, data = audit["model"], audit["data"]
    parts = [
        f"{model['access']} access to the model",
        _parity(model["parity"]),
        f"class order from {model['classes_source']}" if model.get("classes_source") else "",
        f"{data['n']} {data.get('kind', 'images')}{formatting.of_units(data)}",
        "" if data["labelled"] else "no labels, so accuracy and bias were not measured",
        _completeness(audit),
        _named("broken plugins", [plugin["name"] for plugin in audit["plugins"] if plugin["error"]]),
        _named("accepted by the policy and not counted", _acceptances(audit)),
        _named("areas without a result", _areas_without_result(audit)),
    ]
    return _sentence("Confidence in this audit: " + "; ".join(part for part in parts if part))


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(names)}" if names else ""


def _completeness(audit: AuditRecord) -> str:
    status = counts(audit).status
    missing = [f"{status[name]} {word}" for name, word in STATUS_TEXTS.items() if status[name]]
    return f"of {len(audit['probes'])} probes " + ", ".join(missing) if missing else "every probe ran to its end"


def _acceptances(audit: AuditRecord) -> list[str]:
    return [
        f"{entry['probe']} by {entry['author']} until {entry['expires']}"
        for entry in accepted(audit)
        if entry["state"] == "holds"
    ]


def _areas_without_result(audit: AuditRecord) -> list[str]:
    areas = {probe["area"] for probe in with_results(audit["probes"])}
    return [AREA_TITLES[area].lower() for area in AREAS if area not in areas]


def _parity(parity: ParityRecord | None) -> str:
    if parity is None or not parity["n"] or parity["label_agreement"] is None:
        return "parity of differentiable copy and deployed model was not measured"
    agreement = formatting.formatted(parity["label_agreement"], "percent")
    return f"the differentiable copy and the deployed model agree on {agreement} of {parity['n']} images"


def _sentence(text: str) -> str:
    """Return one line that ends with a full stop."""
    return formatting.clean(" ".join(text.split())).rstrip(". ") + "."
