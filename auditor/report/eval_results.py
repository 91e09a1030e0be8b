"""The accuracy as an entry of ``.eval_results/`` in a model repository of the Hugging Face Hub.

Format: https://huggingface.co/docs/hub/eval-results (marked there as work in progress). The Hub shows the entry on the
model page and in the leaderboard of the benchmark. Only a dataset that is a benchmark on the Hub can be named, so the
owner of the data states it in the sidecar.
"""

from __future__ import annotations

import json
from pathlib import Path

from auditor.errors import AuditorError
from auditor.findings import formatting
from auditor.findings.record import AuditRecord, MetricRecord, spec_of

FILE = ".eval_results/auditor.yaml"
_PROBE, _METRIC = "performance.accuracy", "accuracy"


def render_eval_results(audit: AuditRecord, run: Path) -> bytes:
    """Render the YAML file. Raises AuditorError without a benchmark or a measured accuracy."""
    del run
    benchmark = audit["data"].get("benchmark")
    if benchmark is None:
        raise AuditorError(
            "the data is no known benchmark of the Hugging Face Hub; state it in the sidecar of the model: [data]"
            ' benchmark = "organisation/dataset", and task unless it is "default"'
        )
    metric, measured = _accuracy(audit)
    notes = f"accuracy {measured}, n = {formatting.sample_size(metric)}, auditor {audit['auditor']}"
    lines = [
        "- dataset:",
        f"    id: {_quoted(benchmark['id'])}",
        f"    task_id: {_quoted(benchmark['task_id'])}",
        f"  value: {json.dumps(metric['value'])}",
        f"  date: {_quoted(audit['created'])}",
        f"  notes: {_quoted(notes)}",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _accuracy(audit: AuditRecord) -> tuple[MetricRecord, str]:
    """Return the accuracy on all images, and its text with interval."""
    for probe in audit["probes"]:
        for metric in probe["metrics"] if probe["id"] == _PROBE else ():
            if metric["name"] == _METRIC and not metric["at"] and metric["value"] is not None:
                return metric, formatting.measured(metric, spec_of(probe, metric))
    raise AuditorError(f"the audit has no accuracy; run the probe {_PROBE} on labelled data")


def _quoted(text: str) -> str:
    """Quote text for YAML; a JSON string is a YAML string."""
    return json.dumps(formatting.clean(text), ensure_ascii=False)
