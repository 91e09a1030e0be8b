"""A short summary in plain language for people who decide, derived from audit.json alone.

It never combines the number of one probe with the status of another: a number is followed by the probe it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

from auditor.findings import formatting
from auditor.findings.finding import AREAS
from auditor.findings.losses import unjudged_losses
from auditor.findings.record import AuditRecord, plugin_title
from auditor.report.gaps import STATUS_TEXTS
from auditor.report.group_gaps import group_gaps, largest_gap
from auditor.report.risks import Risk, number_text, risks
from auditor.report.summary import AREA_TITLES, accepted, counts, file_name, in_areas, with_results


def plain_summary(audit: AuditRecord) -> list[str]:
    """Return the summary, one statement each: verdict, worst failure, groups, what is open."""
    parts = [_decision(audit), _worst(risks(audit["probes"])), _losses(audit), _groups(audit), _open(audit)]
    return [_sentence(part) for part in parts if part]


def _decision(audit: AuditRecord) -> str:
    model, data, policy = file_name(audit["model"]["path"]), audit["data"], audit["policy"]["name"]
    kind = f"{'' if data['labelled'] else 'unlabelled '}{data.get('kind', 'images')}"
    order = audit["model"].get("classes_source", "")
    # every accuracy depends on the order of the classes
    stated = f" (class order from {order})" if order and data["labelled"] else ""
    tested = f"{data['n']} {kind}{formatting.of_units(data)} from {data['path']}{stated}"
    outcome = {
        "pass": f"{model} meets the policy {policy} on {tested}",
        "fail": f"{model} does not meet the policy {policy} on {tested}",
        "incomplete": f"Whether {model} meets the policy {policy} is open; it was tested on {tested}",
    }
    return outcome[audit["verdict"]]


def _worst(found: Sequence[Risk]) -> str:
    if not found:
        return "No judged number crossed a threshold"
    worst = found[0]
    failed = formatting.counted(len(found), "probe")
    number = f": {worst.text}" if worst.text else ""
    return f"{failed} failed. The worst is {worst.probe['title']} ({worst.severity}){number}"


def _losses(audit: AuditRecord) -> str:
    losses = unjudged_losses(audit["probes"])
    if not losses:
        return ""
    return f"No threshold judges the largest other loss, in {losses[0].probe['title']}: {losses[0].text}"


def _groups(audit: AuditRecord) -> str:
    gaps = group_gaps(audit, 1)
    if gaps.worst:
        found = formatting.counted(gaps.found, "gap") + (" is" if gaps.found == 1 else " are")
        return f"{found} significant between groups. The worst: {gaps.worst[0].finding['statement'].rstrip('.')}"
    largest = largest_gap(audit)
    if largest is not None and gaps.text.startswith("No gap"):
        return (
            f"No gap between groups is significant. The largest is in {largest.probe['title']}: {number_text(largest)}"
        )
    reason = next((p["reason"].rstrip(". ") for p in in_areas(audit, "bias") if p["reason"]), "")
    measured = not gaps.text.startswith("Gaps between groups were not measured")
    return gaps.text if measured or not reason else f"{gaps.text.rstrip('.')}: {reason}"


def _open(audit: AuditRecord) -> str:
    status = counts(audit).status
    n = len(audit["probes"])
    texts = [f"{status[name]} {word}" for name, word in STATUS_TEXTS.items() if status[name]]
    if status["informative"]:
        texts.append(f"{status['informative']} without a threshold, with the reason next to each")
    judged = f"{status['pass'] + status['fail']} of {n} probes have a verdict"
    judged += f"; {', '.join(texts)}" if texts else ""
    areas = {probe["area"] for probe in with_results(audit["probes"])}
    absent = [AREA_TITLES[area].lower() for area in AREAS if area not in areas]
    excused = [
        f"{entry['probe']} by {entry['author']} until {entry['expires']}"
        for entry in accepted(audit)
        if entry["state"] == "holds"
    ]
    broken = [plugin_title(plugin) for plugin in audit["plugins"] if plugin["error"]]
    parts = [
        judged,
        _named("Not measured", absent),
        _named("Accepted by the policy and not counted", excused),
        _named("Broken plugins", broken),
        "" if audit["data"]["labelled"] else "Accuracy and bias were not measured, because the data has no labels",
    ]
    return ". ".join(part for part in parts if part)


def _named(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(names)}" if names else ""


def _sentence(text: str) -> str:
    """Return one line that ends with a full stop."""
    return formatting.clean(" ".join(text.split())).rstrip(". ") + "."
