"""The report for a model card: metadata and sections as Hugging Face's model cards have them.

The metadata is a ``model-index`` (task, dataset, metrics), the text the card's sections "Evaluation" and "Bias, Risks,
and Limitations". Numbers keep their interval and n; what was not measured is said where the limitations are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from auditor.findings import formatting
from auditor.report import summary
from auditor.report.markdown import plain

Record = Mapping[str, Any]


def render_card(audit: Record, run: Path) -> bytes:
    """model-card.md: front matter and two sections, to be put into the model's own card."""
    lines = ["---", *_metadata(audit), "---", "", *_evaluation(audit), *_limitations(audit)]
    return formatting.clean("\n".join(lines) + "\n").encode("utf-8")


def _quoted(text: str) -> str:
    """Text as a YAML string: a JSON string is one."""
    return json.dumps(formatting.clean(text), ensure_ascii=False)


def _model(audit: Record) -> str:
    return PurePosixPath(summary.file_name(audit["model"]["path"])).stem


def _dataset(audit: Record) -> str:
    return summary.file_name(audit["data"]["path"].rstrip("/\\"))


def _headlines(audit: Record) -> Iterator[tuple[Record, Record]]:
    """Every probe with its first number, where it has one."""
    for probe in audit["probes"]:
        if probe["metrics"] and probe["metrics"][0]["value"] is not None:
            yield probe, probe["metrics"][0]


def _metadata(audit: Record) -> Iterator[str]:
    yield "pipeline_tag: image-classification"
    metrics = list(_headlines(audit))
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
        said = f"{formatting.name(metric)}{formatting.place(metric)} ({probe['id']})"
        yield f"      name: {_quoted(said)}"
        yield "      verified: false"


def _evaluation(audit: Record) -> Iterator[str]:
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
    yield f"{data['n']} {kind} images from {plain(_dataset(audit))}, SHA-256 `{data['sha256']}`."
    yield f"The audited file is {plain(summary.file_name(model['path']))}, SHA-256 `{model['sha256']}`."
    yield ""
    yield "### Results"
    yield ""
    yield "| Probe | Metric | Value, 95 % interval | n | Reads as | Status |"
    yield "| :--- | :--- | ---: | ---: | :--- | :--- |"
    for probe, metric in _headlines(audit):
        name = f"{formatting.name(metric)}{formatting.place(metric)}"
        yield (
            f"| `{probe['id']}` | {plain(name)} | {plain(formatting.measured(metric))} | {metric['n']} "
            f"| {formatting.reading(metric)} | {probe['status']} |"
        )
    yield ""


def _limitations(audit: Record) -> Iterator[str]:
    yield "## Bias, Risks, and Limitations"
    yield ""
    for worst in summary.worst_findings(audit, 5):
        yield f"- **{worst.finding['severity']}**: {plain(worst.finding['statement'])} (`{worst.probe['id']}`)"
    for entry in summary.accepted(audit):
        if entry["state"] == "holds":
            text = f"accepted by {entry['author']} until {entry['expires']}: {entry['justification']}"
            yield f"- `{entry['probe']}` failed, {plain(text)}"
    for gap in summary.gaps(audit):
        yield f"- Not established: {plain(gap.what)} – {plain(gap.why)}"
    yield "- Robust accuracy under an attack is an upper bound: a better attack can only lower it."
