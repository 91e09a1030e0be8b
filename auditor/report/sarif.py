"""The report for code-scanning services: SARIF 2.1.0.

Every finding with a severity is a result at the model's file, with a fingerprint that stays the same from run to run,
so that a service recognises a finding it has already seen. What broke becomes a notification, not a result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from auditor.findings import formatting
from auditor.report import frameworks, summary

Record = Mapping[str, Any]

LEVELS = {"none": "none", "low": "note", "medium": "warning", "high": "error", "critical": "error"}
SCORES = {"none": "0.0", "low": "3.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}
"""What code-scanning services rank security findings by."""


def render_sarif(audit: Record, run: Path) -> bytes:
    """audit.sarif: one run with a rule per probe and a result per finding that has a severity."""
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
    """The model's path as a URI reference: relative ones stay relative, whichever system wrote them."""
    windows = PureWindowsPath(path)
    if windows.drive or "\\" in path:
        return windows.as_uri() if windows.is_absolute() else quote(windows.as_posix())
    posix = PurePosixPath(path)
    return posix.as_uri() if posix.is_absolute() else quote(posix.as_posix())


def _rule(probe: Record) -> dict[str, Any]:
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


def _results(probe: Record, index: int, uri: str) -> list[dict[str, Any]]:
    """A result per finding with a severity; a failed probe without such a finding gives one of its own."""
    found = [finding for finding in probe["findings"] if finding["severity"] != "none"]
    if found:
        return [_result(probe, index, uri, finding) for finding in found]
    if probe["status"] == "fail":
        statement = probe["reason"] or f"{probe['title']}: {summary.headline(probe)}"
        return [_result(probe, index, uri, {"id": probe["id"], "statement": statement, "severity": probe["severity"]})]
    return []


def _result(probe: Record, index: int, uri: str, finding: Record) -> dict[str, Any]:
    key, severity = finding["id"], finding["severity"]
    suppressions = [
        {"kind": "external", "status": "accepted", "justification": f"{entry['author']}: {entry['justification']}"}
        for entry in probe.get("accepted", ())
        if finding.get("accepted")
    ]
    return {
        **({"suppressions": suppressions} if suppressions else {}),
        "ruleId": probe["id"],
        "ruleIndex": index,
        "kind": "fail",
        # a failure without a severity must still be seen
        "level": "warning" if severity == "none" else LEVELS[severity],
        "message": {"text": finding["statement"]},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}, "region": {"startLine": 1}}},
        ],
        "partialFingerprints": {"auditorFinding/v1": hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()},
        "properties": {"severity": severity, "finding": key},
    }


def _invocation(audit: Record) -> dict[str, Any]:
    notes = [
        {"level": "error" if gap.loud else "note", "message": {"text": f"{gap.what}: {gap.why}"}}
        for gap in summary.gaps(audit)
    ]
    broken = any(probe["status"] == "error" for probe in audit["probes"]) or any(p["error"] for p in audit["plugins"])
    return {"executionSuccessful": not broken, "commandLine": audit["command"], "toolExecutionNotifications": notes}
