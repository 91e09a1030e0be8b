"""Build and validate the records of audit.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import auditor
from auditor.data.dataset import Images
from auditor.findings.encoding import plain
from auditor.findings.finding import Conclusion, Status
from auditor.findings.formatting import counted
from auditor.findings.metric import Metric
from auditor.findings.record import (
    AuditRecord,
    DataRecord,
    DigestsRecord,
    EndpointRecord,
    FindingRecord,
    InputRecord,
    ModelRecord,
    PlanRecord,
    ProbeRecord,
    UnknownRecord,
)
from auditor.model.deployed import DeployedModel
from auditor.model.device import describe
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite
from auditor.policy import published
from auditor.policy.rules import Policy
from auditor.policy.verdict import verdict
from auditor.probes.base import Probe, Records
from auditor.run.casualties import MODEL, Casualties
from auditor.run.folder import Cost
from auditor.run.request import Request
from auditor.run.watch import Watch
from auditor.schemas import validator
from auditor.statistics import FEW_UNITS

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 3
"""Images that a warning names."""

_MAX_NAMED = 200
"""Unreadable images, and skipped files for each reason, that audit.json names."""


_DUPLICATES_WARNED = 0.01
"""Share of near-duplicates from which on intervals may be noticeably too narrow."""


def probe_record(
    probe: Probe,
    cost: Cost,
    *,
    status: Status = "informative",
    reason: str = "",
    conclusion: Conclusion | None = None,
    n: int = 0,
    caveat: str = "",
    note: str = "",
    left_out: Sequence[str] = (),
) -> ProbeRecord:
    """Return the record of a probe before the policy judges it."""
    conclusion = conclusion or Conclusion()
    meta = probe.meta
    return {
        "id": meta.id,
        "title": meta.title,
        "why": meta.why,
        "area": meta.area,
        "status": status,
        "severity": "none",
        "reason": reason,
        "caveat": "; ".join(text for text in (conclusion.inconclusive, caveat) if text),
        "note": note,
        "n": n,
        "left_out": list(left_out),
        # a probe that broke may break again
        "threat_model": None if status == "error" else plain(probe.threat_model()),
        "seconds": round(cost.seconds, 3),
        "model_calls": {"forward": cost.forward, "backward": cost.backward},
        "settings": plain(asdict(probe)),
        "references": list(meta.references),
        "metric_specs": plain(probe.metrics),
        "metrics": plain(conclusion.metrics),
        "findings": plain(conclusion.findings),
        "warnings": list(conclusion.warnings),
    }


def audit_record(
    request: Request,
    classifier: DeployedModel,
    images: Images,
    *,
    plugins: Registry,
    suite: Suite,
    policy: Policy,
    plan: PlanRecord,
    digests: DigestsRecord,
    probes: list[ProbeRecord],
    warnings: list[str],
    unscored: Mapping[str, str],
    watch: Watch,
) -> AuditRecord:
    """Return the whole audit.json, with the verdict of the policy."""
    outcome, reason = verdict(probes, policy, [plugin.title for plugin in plugins.broken], unanswered=len(unscored))
    return {
        "schema": "auditor/1",
        "auditor": auditor.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": request.seed,
        "suite": suite.name,
        "command": request.command,
        "environment": describe(classifier.device),
        "supervision": {
            "supervised": watch.supervised,
            "probe_timeout": watch.probe_timeout,
            "probe_memory": watch.probe_memory,
            "restarts": watch.casualties.restarts,
            "losses": watch.casualties.described(),
        },
        "model": _model_record(classifier),
        "data": _data_record(images, classifier, unscored),
        "policy": policy.described(probes),
        "plan": plan,
        "digests": digests,
        "plugins": [plugin.record for plugin in plugins.plugins if plugin.error or plugin.package != "auditor"],
        "warnings": list(dict.fromkeys([*warnings, *(text for probe in probes for text in probe.get("warnings", []))])),
        "verdict": outcome,
        "verdict_reason": reason,
        "documented": plain(published.compare_published(suite.documented, probes, classifier.path)),
        "probes": probes,
    }


def _model_record(classifier: DeployedModel) -> ModelRecord:
    artefact, decoder = classifier.artefact, classifier.decoder
    return {
        "path": classifier.path,
        "sha256": classifier.sha256,
        "format": artefact.format,
        "access": classifier.access,
        "access_reason": classifier.access_reason,
        "runtime": artefact.runtime,
        "input": _input_record(classifier),
        "outputs": classifier.outputs,
        "output": {"name": artefact.output or None, "ends_in": decoder.activation, "single": decoder.single},
        "classes": list(classifier.classes),
        "classes_source": classifier.classes_source,
        "parity": None if classifier.parity is None else plain(classifier.parity._asdict()),
        "review": classifier.review.record() if classifier.review else None,
        "endpoint": None if artefact.endpoint is None else cast(EndpointRecord, dict(artefact.endpoint.counts())),
    }


def _input_record(classifier: DeployedModel) -> InputRecord:
    shape = classifier.shape
    axes = (*shape[1:], shape[0]) if classifier.preprocessing.layout == "nhwc" else shape
    described: dict[str, Any] = {
        "shape": [classifier.fixed_batch, *axes],
        **plain(classifier.preprocessing.describe()),
        "source": classifier.preprocessing_source,
    }
    return cast(InputRecord, described)


def _data_record(images: Images, classifier: DeployedModel, unscored: Mapping[str, str]) -> DataRecord:
    unreadable = images.unreadable + [f"{image_id}: {why}" for image_id, why in sorted(unscored.items())]
    return {
        "path": images.path,
        "sha256": images.sha256,
        "kind": classifier.input_kind,
        "n": len(images) - len(unscored),
        "n_available": images.n_available,
        "n_unreadable": len(unreadable),
        "n_unanswered": len(unscored),
        "unreadable": unreadable[:_MAX_NAMED],
        "skipped": [
            {"reason": why, "n": len(names), "names": list(names[:_MAX_NAMED])} for why, names in images.skipped.items()
        ],
        "labelled": images.labels is not None,
        "units": None if images.units is None else {"name": images.unit_name, "n": len(set(images.units))},
        "near_duplicates": images.near_duplicates,
        "benchmark": images.benchmark,
        "unknown": None if images.unknown is None else _unknown_record(images.unknown),
        "groups": {name: dict(sorted(Counter(values).items())) for name, values in images.groups.items()},
    }


def _unknown_record(images: Images) -> UnknownRecord:
    return {
        "path": images.path,
        "sha256": images.sha256,
        "n": len(images),
        "n_available": images.n_available,
        "n_unreadable": len(images.unreadable),
    }


def audit_warnings(classifier: DeployedModel, images: Images) -> list[str]:
    """Return the warnings of page one: data, preprocessing, access."""
    warnings = list(classifier.warnings)
    if images.note:
        warnings.insert(0, images.note)
    elif images.labels is None:
        warnings.insert(
            0,
            "The data has no labels: the model's own predictions replace them, and accuracy and bias were not"
            " measured.",
        )
    if images.unreadable:
        warnings.append(f"{len(images.unreadable)} images could not be read and are left out.")
    warnings += _unit_warnings(images)
    if classifier.access == "black-box":
        warnings.append(f"Black-box only: {classifier.access_reason}.")
    return warnings


def left_out_warnings(
    unscored: Mapping[str, str], probes: Sequence[ProbeRecord], fatal: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Return the warnings about images for which the model returned NaN or infinity, as they are or as changed.

    ``fatal`` has the images that ended the process instead, by probe; ``restart_warnings`` is about them.
    """
    warnings = []
    unscored = {name: why for name, why in unscored.items() if name not in fatal.get(MODEL, {})}
    if unscored:
        warnings.append(
            f"The model returned NaN or infinity for {_counted(sorted(unscored))}; every probe leaves them out."
        )
    for probe in probes:
        names = [name for name in probe.get("left_out", []) if name not in fatal.get(probe["id"], {})]
        if names:
            warnings.append(
                f"{probe['id']}: the model returned NaN or infinity for what the probe made of {_counted(names)}; it"
                " counts them neither as a success nor as a failure."
            )
    return warnings


def restart_warnings(casualties: Casualties) -> list[str]:
    """Return the warnings about what ended the process of the audit."""
    warnings = []
    if casualties.restarts:
        times = "once" if casualties.restarts == 1 else f"{casualties.restarts} times"
        warnings.append(
            f"The process of the audit ended {times} and was started again; what ended it counts as an error or is left"
            " out."
        )
    if casualties.workers:
        were = "One worker was" if casualties.workers == 1 else f"{casualties.workers} workers were"
        warnings.append(f"{were} lost during the audit; others measured what was left.")
    for probe_id, lost in casualties.images.items():
        subject = probe_id or "The model"
        everywhere = "" if probe_id else "; every probe leaves them out"
        warnings.append(f"{subject} ended the process on {_counted(sorted(lost))}{everywhere}.")
    return warnings


def _counted(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} image{'s' if len(names) > 1 else ''} ({', '.join(names[:_SHOWN])}{more})"


def _unit_warnings(images: Images) -> list[str]:
    """Warn of intervals that are unreliable or too narrow because images are correlated."""
    if images.units is not None:
        count = len(set(images.units))
        if count >= FEW_UNITS:
            return []
        return [
            f"The images belong to {counted(count, 'unit')} (column {images.unit_name}). With fewer than {FEW_UNITS},"
            " intervals and tests over units are unreliable."
        ]
    if images.near_duplicates < max(2, _DUPLICATES_WARNED * len(images)):
        return []
    return [
        f"{images.near_duplicates} of {len(images)} images are nearly equal to another one, and the data states no"
        " units, so intervals may be too narrow. State the patient, person or video of each image in a column `unit`,"
        " or name its column with --unit."
    ]


def evidence_files(findings: Sequence[FindingRecord]) -> list[str]:
    """Return the image files of findings."""
    return [
        cell["file"]
        for finding in findings
        for item in finding["evidence"]
        if item["kind"] == "image-grid"
        for row in item["rows"]
        for cell in row["cells"]
        if cell["file"]
    ]


def check_record(record: ProbeRecord) -> None:
    """Raise ValueError if the result of a probe does not fit the schema."""
    problem = next(iter(validator("audit", "probe").iter_errors(record)), None)
    if problem is not None:
        place = "/".join(str(part) for part in problem.absolute_path)
        raise ValueError(f"its result does not fit the schema of audit.json at {place}: {problem.message[:200]}")


_UNBOUNDED = ("l1", "l2", "linf", "dB")
"""Units of metrics that may be infinite."""


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Raise ValueError for an infinite metric, or a setting that is not finite; a value of NaN stands for none.

    The ends of an interval may be infinite, and a median distance or SNR is if most images have no adversarial one.
    """
    for metric in metrics:
        for key, setting in metric.at.items():
            if isinstance(setting, float) and not math.isfinite(setting):
                raise ValueError(f"metric {metric.name!r} is measured at {key} = {setting}; expected a finite number")
        if metric.unit not in _UNBOUNDED and isinstance(metric.value, float) and math.isinf(metric.value):
            raise ValueError(f"metric {metric.name!r} is infinite; expected a finite number, or NaN for no value")


def ignores_units(conclusion: Conclusion) -> bool:
    """Return whether a metric has an interval that is not over units."""
    return any(metric.low is not None and metric.units is None for metric in conclusion.metrics)


def n_examined(records: Records, measured: int) -> int:
    """Return how many images a probe is about.

    These are the measured ones, or those of the probes whose records it reads if it measures nothing itself.
    """
    read = [frame for frame in records.others.values() if _has_measurements(frame)]
    if not read or _has_measurements(records.frame):
        return measured
    return len(set().union(*(frame["image_id"] for frame in read)))


def _has_measurements(frame: pd.DataFrame) -> bool:
    """Whether records have columns other than those of every record."""
    common = {"image_id", "label", "prediction", "sampled", "unit"}
    return any(name not in common and not str(name).startswith("group:") for name in frame.columns)
