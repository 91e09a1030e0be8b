"""An unsigned in-toto Statement v1 with the test-result predicate v0.1, to be signed with cosign or another tool.

Specification: in-toto Attestation Framework, spec/v1/statement.md and spec/predicates/test-result.md
(https://github.com/in-toto/attestation). Subjects are the audited model and audit.json, so that a signature binds both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.files import file_sha256
from auditor.findings import formatting
from auditor.findings.finding import Status
from auditor.findings.record import AuditRecord
from auditor.report import summary

FILE = "audit.intoto.json"
_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def render_statement(audit: AuditRecord, run: Path) -> bytes:
    """Render audit.intoto.json: digests of model, data, policy, suite, records and audit.json, and the results."""
    document = {
        "_type": _TYPE,
        "subject": [
            _descriptor(summary.file_name(audit["model"]["path"]), audit["model"]["sha256"]),
            _descriptor("audit.json", file_sha256(run / "audit.json")),
        ],
        "predicateType": PREDICATE,
        "predicate": {
            # an incomplete audit has not passed, and WARNED means a pass with warnings
            "result": "PASSED" if audit["verdict"] == "pass" else "FAILED",
            "configuration": _configuration(audit),
            "passedTests": _with_status(audit, "pass"),
            "warnedTests": _with_status(audit, "inconclusive"),
            "failedTests": _with_status(audit, "fail", "error"),
        },
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return (formatting.clean(text) + "\n").encode("utf-8")


def _descriptor(name: str, sha256: str, annotations: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a ResourceDescriptor."""
    descriptor: dict[str, Any] = {"name": name, "digest": {"sha256": sha256}}
    return {**descriptor, "annotations": annotations} if annotations else descriptor


def _configuration(audit: AuditRecord) -> list[dict[str, Any]]:
    policy, data = audit["policy"], audit["data"]
    configuration = [
        _descriptor("data", data["sha256"], {"name": summary.file_name(data["path"]), "n": data["n"]}),
        _descriptor("policy", policy["sha256"], {"name": policy["name"], "verdict": audit["verdict"]}),
    ]
    if (plan := audit.get("plan")) is not None:
        chosen = {"written": plan["written"], "seed": plan["seed"]}
        configuration += [
            _descriptor("planned policy", plan["policy"]["sha256"], {"name": plan["policy"]["name"], **chosen}),
            _descriptor("planned suite", plan["suite"]["sha256"], {"name": plan["suite"]["name"], **chosen}),
        ]
    if (digests := audit.get("digests")) is not None:
        configuration += [
            _descriptor("suite", digests["suite"], {"name": audit["suite"]}),
            _descriptor("manifest.json", digests["manifest"]),
            _descriptor("records", digests["records"]),
            _descriptor("evidence", digests["evidence"]),
        ]
    return configuration


def _with_status(audit: AuditRecord, *statuses: Status) -> list[str]:
    return [probe["id"] for probe in audit["probes"] if probe["status"] in statuses]
