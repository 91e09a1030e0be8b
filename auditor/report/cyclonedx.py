"""A CycloneDX 1.7 ML-BOM: the audited model with a model card that has every measured number.

Specification: https://cyclonedx.org/docs/1.7/json/ (ECMA-424). A performance metric of CycloneDX has a type, a value, a
slice and a confidence interval, all texts; n, unit and kind of bound are properties of the model card.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from auditor.files import digest
from auditor.findings import formatting
from auditor.findings.record import AuditRecord
from auditor.report import summary
from auditor.report.gaps import gaps
from auditor.report.ranking import RankedMetric, worst_findings

_LIMITATIONS = 5
"""Number of the worst findings among the technical limitations."""


def render_bom(audit: AuditRecord, run: Path) -> bytes:
    """Render bom.cdx.json."""
    del run
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        # the same audit has the same number
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest(audit))}",
        "version": 1,
        "metadata": {
            "timestamp": audit["created"],
            "tools": {"components": [{"type": "application", "name": "auditor", "version": audit["auditor"]}]},
            "component": _model(audit),
        },
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return (formatting.clean(text) + "\n").encode("utf-8")


def _model(audit: AuditRecord) -> dict[str, Any]:
    model = audit["model"]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model-{model['sha256'][:16]}",
        "name": summary.file_name(model["path"]),
        "hashes": [{"alg": "SHA-256", "content": model["sha256"]}],
        "modelCard": _card(audit),
    }


def _card(audit: AuditRecord) -> dict[str, Any]:
    metrics = [
        RankedMetric(probe, metric)
        for probe in audit["probes"]
        for metric in probe["metrics"]
        if metric["value"] is not None
    ]
    return {
        "modelParameters": {
            "task": "classification",
            "datasets": [_data(audit)],
            "inputs": [{"format": "tabular" if audit["data"].get("kind") == "rows" else "image"}],
            "outputs": [{"format": audit["model"]["outputs"]}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [_metric(ranked) for ranked in metrics]},
        "considerations": {"technicalLimitations": _limitations(audit)},
        "properties": [
            _property("auditor:verdict", audit["verdict"]),
            _property("auditor:suite", audit["suite"]),
            _property("auditor:policy", audit["policy"]["name"]),
            _property("auditor:policy:sha256", audit["policy"]["sha256"]),
            *(_property(f"auditor:metric:{number}", _details(ranked)) for number, ranked in enumerate(metrics)),
        ],
    }


def _data(audit: AuditRecord) -> dict[str, Any]:
    data = audit["data"]
    properties = [_property("auditor:sha256", data["sha256"]), _property("auditor:n", str(data["n"]))]
    return {
        "type": "dataset",
        "name": summary.file_name(data["path"].rstrip("/\\")),
        "contents": {"properties": properties},
        "description": "data of the audit",
    }


def _metric(ranked: RankedMetric) -> dict[str, Any]:
    metric = ranked.metric
    entry = {"type": f"{ranked.probe['id']}: {metric['name']}", "value": json.dumps(metric["value"])}
    if metric["at"]:
        entry["slice"] = formatting.measured_at(metric["at"])
    if metric["low"] is None or metric["high"] is None:
        return entry
    interval = {"lowerBound": json.dumps(metric["low"]), "upperBound": json.dumps(metric["high"])}
    return {**entry, "confidenceInterval": interval}


def _details(ranked: RankedMetric) -> str:
    """Describe what the entry of a metric cannot state."""
    metric = ranked.metric
    interval = "" if metric["low"] is None else ", interval 95 %"
    size, bound = formatting.sample_size(metric), formatting.bound(ranked.spec)
    return f"n {size}, unit {metric['unit']}, {bound}{interval}, probe {ranked.probe['status']}"


def _limitations(audit: AuditRecord) -> list[str]:
    worst = [
        f"{each.finding['severity']}: {each.finding['statement']}"
        for each in worst_findings(audit["probes"], _LIMITATIONS)
    ]
    return [*worst, *(f"Not established: {gap.part}: {gap.reason}" for gap in gaps(audit))]


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}
