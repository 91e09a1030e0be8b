"""The report for build servers: JUnit XML with one test case per probe.

Only ``pass`` is a passed test. A probe without a verdict is skipped with its reason, never passed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

from auditor.findings import formatting
from auditor.findings.record import AuditRecord, ProbeRecord
from auditor.report import summary

_Tag = Literal["failure", "error", "skipped"]


def render_junit(audit: AuditRecord, run: Path) -> bytes:
    """Render audit.junit.xml: one suite whose cases are named after the probes."""
    del run
    probes = audit["probes"]
    totals = _totals(probes)
    root = ET.Element("testsuites", {"name": "auditor", **totals})
    name = f"auditor {audit['suite']} {summary.file_name(audit['model']['path'])}"
    suite = ET.SubElement(root, "testsuite", {"name": formatting.clean(name), **totals, "timestamp": audit["created"]})
    _add_properties(suite, audit)
    for probe in probes:
        _add_case(suite, probe)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _tag(probe: ProbeRecord) -> _Tag | None:
    """Return the outcome of a probe's case; a failure that the policy accepts is skipped."""
    if probe["status"] == "pass":
        return None
    if probe["status"] == "error":
        return "error"
    accepted = probe["severity"] == "none" and bool(probe.get("accepted"))
    return "failure" if probe["status"] == "fail" and not accepted else "skipped"


def _totals(probes: list[ProbeRecord]) -> dict[str, str]:
    tags = Counter(map(_tag, probes))
    return {
        "tests": str(len(probes)),
        "failures": str(tags["failure"]),
        "errors": str(tags["error"]),
        "skipped": str(tags["skipped"]),
        "time": f"{sum(probe['seconds'] for probe in probes):.3f}",
    }


def _add_properties(suite: ET.Element, audit: AuditRecord) -> None:
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", audit["verdict"]),
        ("model.sha256", audit["model"]["sha256"]),
        ("data.sha256", audit["data"]["sha256"]),
        ("policy", audit["policy"]["name"]),
        ("seed", str(audit["seed"])),
    ):
        ET.SubElement(properties, "property", {"name": name, "value": formatting.clean(value)})


def _add_case(suite: ET.Element, probe: ProbeRecord) -> None:
    attributes = {"classname": f"auditor.{probe['area']}", "name": probe["id"], "time": f"{probe['seconds']:.3f}"}
    case = ET.SubElement(suite, "testcase", attributes)
    tag = _tag(probe)
    if tag is None:
        return
    reason = probe["reason"] or "no reason recorded"
    message = reason if tag != "skipped" else f"{probe['status']}: {reason}"
    outcome = ET.SubElement(case, tag, {"message": formatting.clean(message)})
    if tag == "failure":
        outcome.set("type", probe["severity"])
    statements = [f"[{finding['severity']}] {finding['statement']}" for finding in probe["findings"]]
    outcome.text = formatting.clean("\n".join(statements)) or None
