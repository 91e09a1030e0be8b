"""The report for a Hugging Face model card.

The metadata is a ``model-index`` (task, dataset, metrics); the text is the sections "Evaluation" and "Bias, Risks, and
Limitations". Numbers keep their interval and n; missing measurements are listed as limitations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from auditor.findings import formatting
from auditor.findings.record import AuditRecord
from auditor.report import summary
from auditor.report.gaps import gaps
from auditor.report.group_gaps import group_gaps, severity_text
from auditor.report.markdown import plain
from auditor.report.ranking import RankedMetric, worst_findings


def render_card(audit: AuditRecord, run: Path) -> bytes:
    """Render model-card.md: front matter and two sections, to be copied into the model's own card."""
    del run
    lines = ["---", *_metadata(audit), "---", "", *_evaluation(audit), *_limitations(audit)]
    return formatting.clean("\n".join(lines) + "\n").encode("utf-8")


def _quoted(text: str) -> str:
    """Quote text for YAML; a JSON string is a YAML string."""
    return json.dumps(formatting.clean(text), ensure_ascii=False)


def _model(audit: AuditRecord) -> str:
    return PurePosixPath(summary.file_name(audit["model"]["path"])).stem


def _dataset(audit: AuditRecord) -> str:
    return summary.file_name(audit["data"]["path"].rstrip("/\\"))


def _key_metrics(audit: AuditRecord) -> list[RankedMetric]:
    """Return the key metrics that have a value."""
    return [
        RankedMetric(probe, metric)
        for probe in audit["probes"]
        if (metric := summary.key_metric(probe)) is not None and metric["value"] is not None
    ]


def _metadata(audit: AuditRecord) -> Iterator[str]:
    yield "pipeline_tag: image-classification"
    metrics = _key_metrics(audit)
    if not metrics:
        return
    yield "model-index:"
    yield f"- name: {_quoted(_model(audit))}"
    yield "  results:"
    yield "  - task:"
    yield "      type: image-classification"
    yield "      name: Image Classification"
    yield "    dataset:"
    yield f"      type: {_quoted(_dataset(audit))}"
    yield f"      name: {_quoted(_dataset(audit))}"
    yield "    metrics:"
    for probe, metric in metrics:
        yield f"    - type: {metric['name']}"
        yield f"      value: {json.dumps(metric['value'])}"
        label = f"{summary.metric_text(probe, metric)} ({probe['id']})"
        yield f"      name: {_quoted(label)}"
        yield "      verified: false"


def _evaluation(audit: AuditRecord) -> Iterator[str]:
    data, model = audit["data"], audit["model"]
    kind = "labelled" if data["labelled"] else "unlabelled"
    yield "## Evaluation"
    yield ""
    yield (
        f"Audited with auditor {plain(audit['auditor'])}, suite `{audit['suite']}`, policy "
        f"`{audit['policy']['name']}`: **{audit['verdict'].upper()}**. {plain(audit.get('verdict_reason', ''))}"
    )
    yield ""
    yield "### Testing Data"
    yield ""
    size = f"{data['n']} {kind} images{plain(formatting.of_units(data))}"
    yield f"{size} from {plain(_dataset(audit))}, SHA-256 `{data['sha256']}`."
    yield f"The audited file is {plain(summary.file_name(model['path']))}, SHA-256 `{model['sha256']}`."
    yield ""
    yield "### Results"
    yield ""
    yield "| Probe | Metric | Value, 95 % interval | n | Bound | Status |"
    yield "| :--- | :--- | ---: | ---: | :--- | :--- |"
    for ranked in _key_metrics(audit):
        probe, metric = ranked
        yield (
            f"| `{probe['id']}` | {plain(summary.metric_text(probe, metric))}"
            f" | {plain(formatting.measured(metric, ranked.spec))} | {formatting.sample_size(metric)}"
            f" | {formatting.bound(ranked.spec)} | {probe['status']} |"
        )
    yield ""


def _limitations(audit: AuditRecord) -> Iterator[str]:
    yield "## Bias, Risks, and Limitations"
    yield ""
    worst_five = worst_findings(audit["probes"], 5)
    named = {worst.finding["id"] for worst in worst_five}
    for worst in worst_five:
        yield f"- **{worst.finding['severity']}**: {plain(worst.finding['statement'])} (`{worst.probe['id']}`)"
    found = group_gaps(audit)
    for probe, finding in found.worst:
        if finding["id"] not in named:
            yield f"- **{severity_text(finding['severity'])}**: {plain(finding['statement'])} (`{probe['id']}`)"
    if found.text:
        yield f"- {found.text}"
    for entry in summary.accepted(audit):
        if entry["state"] == "holds":
            text = f"accepted by {entry['author']} until {entry['expires']}: {entry['justification']}"
            yield f"- `{entry['probe']}` failed, {plain(text)}"
    for gap in gaps(audit):
        yield f"- Not established: {plain(gap.part)} – {plain(gap.reason)}"
    yield "- Robust accuracy under an attack is an upper bound: a better attack can only lower it."
