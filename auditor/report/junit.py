"""The report for build servers: JUnit XML with one test case per probe.

Only ``pass`` is a passed test. What could not judge is skipped with its reason, never passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from auditor.findings import formatting
from auditor.report import summary

Record = Mapping[str, Any]

_TAGS = {"pass": None, "fail": "failure", "error": "error"}


def _tag(probe: Record) -> str | None:
    """How a probe's case ends; a failure that the policy accepts is skipped, with who accepted it and why."""
    excused = probe["status"] == "fail" and probe["severity"] == "none" and probe.get("accepted")
    return "skipped" if excused else _TAGS.get(probe["status"], "skipped")


def render_junit(audit: Record, run: Path) -> bytes:
    """audit.junit.xml: one suite; its cases are named after the probes."""
    probes = audit["probes"]
    tags = Counter(map(_tag, probes))
    totals = {
        "tests": str(len(probes)),
        "failures": str(tags["failure"]),
        "errors": str(tags["error"]),
        "skipped": str(tags["skipped"]),
        "time": f"{sum(probe['seconds'] for probe in probes):.3f}",
    }
    root = ET.Element("testsuites", {"name": "auditor", **totals})
    name = f"auditor {audit['suite']} {summary.file_name(audit['model']['path'])}"
    suite = ET.SubElement(root, "testsuite", {"name": formatting.clean(name), **totals, "timestamp": audit["created"]})
    _properties(suite, audit)
    for probe in probes:
        _case(suite, probe)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _properties(suite: ET.Element, audit: Record) -> None:
    holder = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", audit["verdict"]),
        ("model.sha256", audit["model"]["sha256"]),
        ("data.sha256", audit["data"]["sha256"]),
        ("policy", audit["policy"]["name"]),
        ("seed", str(audit["seed"])),
    ):
        ET.SubElement(holder, "property", {"name": name, "value": formatting.clean(value)})


def _case(suite: ET.Element, probe: Record) -> None:
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
