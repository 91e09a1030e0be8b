"""Which publishers are wanted, and the numbers of an audit under flat names."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from auditor import BadInput

if TYPE_CHECKING:
    from auditor.findings.record import AuditRecord, MetricRecord

VARIABLE = "AUDITOR_PUBLISH"
_KNOWN = ("mlflow", "wandb")
_LONGEST = 180
"""Characters of a name; MLflow allows 250."""


def wanted(name: str) -> bool:
    """Whether the environment variable names this publisher. Raises BadInput for a name that no publisher has."""
    names = [each.strip() for each in os.environ.get(VARIABLE, "").split(",") if each.strip()]
    unknown = [each for each in names if each not in _KNOWN]
    if unknown:
        raise BadInput(f"{VARIABLE}: unknown publisher {unknown[0]!r}; expected {', '.join(_KNOWN)}")
    return name in names


def flat_metrics(audit: AuditRecord) -> dict[str, float]:
    """Return every measured number by ``probe/metric.setting_value``, and the ends of its interval.

    The ends have the same name with ``.low`` and ``.high``: a store in a folder cannot hold both ``a`` and ``a/low``.
    Metrics without a value are left out.
    """
    numbers: dict[str, float] = {}
    for probe in audit["probes"]:
        for metric in probe["metrics"]:
            if metric["value"] is None:
                continue
            name = _name(probe["id"], metric)
            ends = {"": metric["value"], ".low": metric["low"], ".high": metric["high"]}
            numbers |= {name + end: float(value) for end, value in ends.items() if value is not None}
    return numbers


def facts(audit: AuditRecord) -> dict[str, str]:
    """Return what identifies the audit: version, suite, seed, verdict, and the digests of model and data."""
    return {
        "auditor.version": audit["auditor"],
        "auditor.suite": audit["suite"],
        "auditor.seed": str(audit["seed"]),
        "auditor.verdict": audit["verdict"],
        "auditor.model_sha256": audit["model"]["sha256"],
        "auditor.data_sha256": audit["data"]["sha256"],
    }


def _name(probe_id: str, metric: MetricRecord) -> str:
    """Return a name of letters, digits and ``_-.`` below the probe; a digest tells apart what other characters did."""
    full = ".".join([metric["name"], *(f"{key}_{value}" for key, value in metric["at"].items())])
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", full)
    if plain == full and len(full) <= _LONGEST:
        return f"{probe_id}/{full}"
    return f"{probe_id}/{plain[:_LONGEST]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
