"""The summary as Markdown, for example for a pull request."""

from __future__ import annotations

import re
from pathlib import Path

from auditor.findings import formatting
from auditor.findings.losses import unjudged_losses
from auditor.findings.record import AuditRecord, ProbeRecord, spec_of
from auditor.report import documented, summary
from auditor.report.gaps import gaps
from auditor.report.group_gaps import group_gaps, severity_text
from auditor.report.plain_summary import plain_summary
from auditor.report.ranking import worst_findings
from auditor.report.risks import risks

_WORST = 3
"""Worst findings in the summary."""

MARKS = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "❔ inconclusive",
    "informative": "ℹ️ informative",
    "not-applicable": "➖ not applicable",
    "error": "⚠️ error",
    "incomplete": "⚠️ incomplete",
}


def plain(text: object) -> str:
    """Escape everything in foreign text that Markdown, or HTML inside it, would interpret."""
    line = " ".join(formatting.clean(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # a zero-width space prevents code-hosting services from mentioning people
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", line).replace("@", "@\N{ZERO WIDTH SPACE}")


def render_markdown(audit: AuditRecord, run: Path) -> bytes:
    """Render summary.md: verdict, plain summary, worst findings, every probe, gaps."""
    del run
    model = audit["model"]
    reason = audit.get("verdict_reason")
    lines = [
        f"## Audit of {plain(summary.file_name(model['path']))}: {MARKS[audit['verdict']]}",
        "",
        *([plain(reason), ""] if reason else []),
        *(f"- {plain(sentence)}" for sentence in plain_summary(audit)),
        "",
        *_risks(audit),
        *_worst(audit),
        *_losses(audit),
        *_group_gaps(audit),
        *_accepted(audit),
        *_probes(audit),
        *_documented(audit),
        *_gaps(audit),
        f"SHA-256 of the model `{model['sha256']}`, seed {audit['seed']}, auditor {plain(audit['auditor'])}.",
        "",
    ]
    return "\n".join(lines).encode("utf-8")


def _section(title: str, items: list[str]) -> list[str]:
    return [f"### {title}", "", *items, ""] if items else []


def _risks(audit: AuditRecord) -> list[str]:
    items = [
        f"{number}. **{risk.severity}** {plain(risk.probe['title'])}: {plain(risk.text or risk.rationale)}"
        + (f"; {plain(risk.threshold)}" if risk.threshold else "")
        + (f". {plain(risk.remedy.action)}" if risk.remedy else "")
        for number, risk in enumerate(risks(audit["probes"], _WORST), 1)
    ]
    return _section("Top risks", items)


def _worst(audit: AuditRecord) -> list[str]:
    items = []
    for _, finding in worst_findings(audit["probes"], _WORST):
        severity = finding["severity"] + (", accepted" if finding.get("accepted") else "")
        items.append(f"- **{severity}** {plain(finding['title'])}: {plain(finding['statement'])}")
    return _section("Worst findings", items)


def _losses(audit: AuditRecord) -> list[str]:
    items = [
        f"- `{loss.probe['id']}`: {plain(loss.text)}; not judged: {plain(loss.reason)}"
        for loss in unjudged_losses(audit["probes"])
    ]
    return _section("Large losses that the policy does not judge", items)


def _group_gaps(audit: AuditRecord) -> list[str]:
    gaps, named = group_gaps(audit), worst_findings(audit["probes"], _WORST)
    items = [
        f"- **{severity_text(entry.finding['severity'])}** {plain(entry.finding['statement'])}"
        for entry in gaps.worst
        if entry not in named
    ]
    title = "Further gaps between groups" if len(items) < len(gaps.worst) else "Worst gaps between groups"
    return _section(title, [*items, *([f"- {gaps.text}"] if gaps.text else [])])


def _accepted(audit: AuditRecord) -> list[str]:
    items = [
        f"- {entry['state']}: `{entry['probe']}` up to {entry['severity']}, by {plain(entry['author'])} until "
        f"{entry['expires']}: {plain(entry['justification'])}"
        for entry in summary.accepted(audit)
    ]
    return _section("Accepted by the policy", items)


def _probes(audit: AuditRecord) -> list[str]:
    head = ["| Probe | Status | Severity | Key metric | Bound | n |", "| :--- | :--- | :--- | :--- | :--- | ---: |"]
    return _section("Probes", head + [_probe(probe) for probe in audit["probes"]])


def _probe(probe: ProbeRecord) -> str:
    metric = summary.key_metric(probe)
    number = f"{summary.headline(probe)} {summary.metric_text(probe, metric)}" if metric else "-"
    bound = formatting.bound(spec_of(probe, metric)) if metric else "-"
    return (
        f"| {plain(probe['title'])} `{probe['id']}` | {MARKS[probe['status']]} | {probe['severity']} "
        f"| {plain(number)} | {bound} | {summary.key_sample_size(probe)} |"
    )


def _documented(audit: AuditRecord) -> list[str]:
    rows = [
        f"| {plain(f'{line.owner}: {line.name}')} | {' | '.join(map(plain, line[2:]))} |"
        for line in documented.lines(audit)
    ]
    head = ["| Metric | Documented | Measured | Comparison |", "| :--- | ---: | ---: | :--- |"]
    return _section("Documented and measured numbers", head + rows) if rows else []


def _gaps(audit: AuditRecord) -> list[str]:
    items = [f"- {'⚠️ ' if gap.broken else ''}**{plain(gap.part)}** – {plain(gap.reason)}" for gap in gaps(audit)]
    return _section("Inconclusive, not measured or failed to run", items)
