"""The lines of page one that people state: owner, reviewer, intended use, limits, data version, signatures."""

from __future__ import annotations

from typing import NamedTuple

from auditor.findings.record import AuditRecord, ReviewRecord

LABELS = {
    "intended_use": "Intended use",
    "limits": "Limits of use",
    "owner": "Owner",
    "reviewer": "Reviewer",
    "data_version": "Data version",
}


class Stated(NamedTuple):
    """What sidecar and policy state; the policy takes precedence."""

    lines: list[tuple[str, str]]
    """Label and text of what is stated."""
    missing: list[str]
    """Labels of what is not stated, in lower case."""
    sign_off: list[str]
    """Names or roles that sign."""


def stated(audit: AuditRecord) -> Stated:
    """Merge the ``[review]`` tables of the model's sidecar and of the policy."""
    layers: list[ReviewRecord] = [audit["model"].get("review") or {}, audit["policy"].get("review") or {}]
    merged: dict[str, object] = {}
    for layer in layers:
        merged |= {name: value for name, value in layer.items() if value}
    lines = [(label, str(merged[name])) for name, label in LABELS.items() if name in merged]
    missing = [label.lower() for name, label in LABELS.items() if name not in merged]
    return Stated(lines, missing, next((layer["sign_off"] for layer in reversed(layers) if layer.get("sign_off")), []))
