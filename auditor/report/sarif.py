"""The report for code-scanning services: SARIF 2.1.0.

Every finding with a severity is a result at the model's file. Its fingerprint is stable between runs, so that a service
recognises a known finding. A broken probe or plugin is a notification, not a result.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from auditor.findings import formatting
from auditor.findings.finding import Severity
from auditor.findings.record import AuditRecord, ProbeRecord
from auditor.report import frameworks, summary
from auditor.report.gaps import gaps

LEVELS: dict[Severity, str] = {"none": "none", "low": "note", "medium": "warning", "high": "error", "critical": "error"}
SCORES: dict[Severity, str] = {"none": "0.0", "low": "3.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}
"""Scores by which code-scanning services rank security findings."""


def render_sarif(audit: AuditRecord, run: Path) -> bytes:
    """Render audit.sarif: one run with a rule per probe and a result per finding with a severity."""
    del run
    probes = audit["probes"]
    uri = _uri(audit["model"]["path"])
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "auditor",
                        "version": audit["auditor"],
                        "semanticVersion": audit["auditor"],
                        "rules": [_rule(probe) for probe in probes],
                    }
                },
                # the category of code scanning: the alerts of one model replace neither those of another nor of a tool
                "automationDetails": {"id": f"auditor/{uri.removeprefix('file:///')}/"},
                "artifacts": [{"location": {"uri": uri}, "hashes": {"sha-256": audit["model"]["sha256"]}}],
                "results": [result for index, probe in enumerate(probes) for result in _results(probe, index, uri)],
                "invocations": [_invocation(audit)],
                "columnKind": "utf16CodeUnits",
                "properties": {"verdict": audit["verdict"], "suite": audit["suite"], "seed": audit["seed"]},
            }
        ],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return (formatting.clean(text) + "\n").encode("utf-8")


def _uri(path: str) -> str:
    """Return the model's path as a URI reference; a relative path stays relative."""
    windows = PureWindowsPath(path)
    if windows.drive or "\\" in path:
        return windows.as_uri() if windows.is_absolute() else quote(windows.as_posix())
    posix = PurePosixPath(path)
    return posix.as_uri() if posix.is_absolute() else quote(posix.as_posix())


def _rule(probe: ProbeRecord) -> dict[str, Any]:
    why = probe.get("why") or probe["title"]
    return {
        "id": probe["id"],
        "name": "".join(part.capitalize() for part in probe["id"].replace(".", "-").split("-")),
        "shortDescription": {"text": probe["title"]},
        "fullDescription": {"text": why},
        "help": {"text": "\n".join([why, *probe["references"]])},
        "defaultConfiguration": {"level": LEVELS[probe["severity"]]},
        "properties": {
            "tags": ["security", probe["area"], *frameworks.informs(probe).get("atlas", ())],
            "security-severity": SCORES[probe["severity"]],
            "informs": frameworks.informs(probe),
        },
    }


def _results(probe: ProbeRecord, index: int, uri: str) -> list[dict[str, Any]]:
    """Return a result per finding with a severity; a failed probe without one gets one result."""
    found = [finding for finding in probe["findings"] if finding["severity"] != "none"]
    if found:
        return [
            _result(
                probe,
                index,
                uri,
                key=finding["id"],
                text=finding["statement"],
                severity=finding["severity"],
                suppressions=_suppressions(probe) if finding.get("accepted") else [],
            )
            for finding in found
        ]
    if probe["status"] == "fail":
        text = probe["reason"] or f"{probe['title']}: {summary.headline(probe)}"
        return [_result(probe, index, uri, key=probe["id"], text=text, severity=probe["severity"], suppressions=[])]
    return []


def _suppressions(probe: ProbeRecord) -> list[dict[str, str]]:
    return [
        {"kind": "external", "status": "accepted", "justification": f"{entry['author']}: {entry['justification']}"}
        for entry in probe.get("accepted", ())
    ]


def _result(
    probe: ProbeRecord,
    index: int,
    uri: str,
    *,
    key: str,
    text: str,
    severity: Severity,
    suppressions: list[dict[str, str]],
) -> dict[str, Any]:
    return {
        **({"suppressions": suppressions} if suppressions else {}),
        "ruleId": probe["id"],
        "ruleIndex": index,
        "kind": "fail",
        # level "none" would hide a failure without a severity
        "level": "warning" if severity == "none" else LEVELS[severity],
        "message": {"text": text},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}, "region": {"startLine": 1}}},
        ],
        "partialFingerprints": _fingerprints(key),
        "properties": {"severity": severity, "finding": key},
    }


def _fingerprints(key: str) -> dict[str, str]:
    """Return what identifies a finding between runs.

    GitHub matches alerts by ``primaryLocationLineHash`` only. Without it, it hashes the first line of the model file,
    so every new model would bring dismissed alerts back. Its own hashes end in ``:`` and a count.
    """
    identity = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
    return {"primaryLocationLineHash": f"{identity}:1", "auditorFinding/v1": identity}


def _invocation(audit: AuditRecord) -> dict[str, Any]:
    notes = [
        {"level": "error" if gap.broken else "note", "message": {"text": f"{gap.part}: {gap.reason}"}}
        for gap in gaps(audit)
    ]
    broken = any(probe["status"] == "error" for probe in audit["probes"]) or any(p["error"] for p in audit["plugins"])
    return {"executionSuccessful": not broken, "commandLine": audit["command"], "toolExecutionNotifications": notes}
