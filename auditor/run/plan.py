"""The plan of a run: seed, suite, probes and policy, written to manifest.json before the first measurement.

A resumed run keeps the plan under which its records were measured. So thresholds that were chosen after looking at the
results are visible: audit.json has the digest of the plan's policy and of the policy that judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypedDict

from auditor.files import digest
from auditor.findings.encoding import plain
from auditor.findings.record import AuditRecord, Json, PlannedRecord, PlanRecord
from auditor.plugin.suite import Suite
from auditor.policy.rules import Policy

_OTHER = "Not as planned before the first measurement: "
"""Beginning of the warnings about a plan; ``plan_warnings`` replaces them when another policy judges."""


class Definition(PlannedRecord):
    """A suite or a policy with its content; ``sha256`` is the digest of the content."""

    content: dict[str, Json]


class Plan(TypedDict):
    """What was decided before the first measurement."""

    written: str
    """Time in UTC."""
    seed: int
    probes: list[str]
    """Ids of the probes, sorted."""
    suite: Definition
    policy: Definition


def new_plan(seed: int, probes: Sequence[str], suite: Suite, policy: Policy) -> Plan:
    """Return the plan of a run that begins now."""
    content = _content(suite)
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "probes": sorted(probes),
        "suite": {"name": suite.name, "sha256": digest(content), "content": content},
        "policy": {"name": policy.name, "sha256": policy.sha256, "content": dict(policy.document)},
    }


def _content(suite: Suite) -> dict[str, Json]:
    # without its name: a renamed file is the same suite
    content: dict[str, Json] = plain(replace(suite, name=""), exact=True)
    return content


def suite_digest(suite: Suite) -> str:
    """Return the SHA-256 of a suite's content."""
    return digest(_content(suite))


def kept_plan(before: Mapping[str, Any], now: Mapping[str, Any]) -> Plan | None:
    """Return the plan of the manifest ``before`` if its records can still be part of the run ``now``, else None.

    Another model or another seed makes every record unusable; other data only that of the images that changed.
    """

    def inputs(manifest: Mapping[str, Any]) -> list[Any]:
        return [manifest["model"]["sha256"], manifest["seed"]]

    plan: Plan | None = before.get("plan")
    return plan if plan is not None and inputs(before) == inputs(now) else None


def described(plan: Plan) -> PlanRecord:
    """Return the plan as recorded in audit.json, with digests instead of contents."""
    suite, policy = plan["suite"], plan["policy"]
    return {
        "written": plan["written"],
        "seed": plan["seed"],
        "probes": plan["probes"],
        "suite": {"name": suite["name"], "sha256": suite["sha256"]},
        "policy": {"name": policy["name"], "sha256": policy["sha256"]},
    }


def with_plan_warnings(audit: AuditRecord) -> AuditRecord:
    """Return the audit with warnings about what differs from its plan, in place of earlier ones."""
    others = [warning for warning in audit["warnings"] if not warning.startswith(_OTHER)]
    return {**audit, "warnings": [*others, *(f"{_OTHER}{text}." for text in departures(audit))]}


def departures(audit: AuditRecord) -> list[str]:
    """List what an audit did otherwise than planned; audits of older versions have no plan."""
    plan = audit.get("plan")
    if plan is None:
        return []
    found = []
    policy, planned = audit["policy"], plan["policy"]
    if policy["sha256"] != planned["sha256"]:
        found.append(f"policy {_named(policy)} judged, the plan has {_named(planned)}")
    suite = {"name": audit["suite"], "sha256": audit["digests"]["suite"]}
    if suite != plan["suite"]:
        found.append(f"suite {_named(suite)} ran, the plan has {_named(plan['suite'])}")
    missing = sorted({*plan["probes"]} - {probe["id"] for probe in audit["probes"]})
    if missing:
        found.append(f"the audit lacks {', '.join(missing)}")
    return found


def _named(definition: Mapping[str, Any]) -> str:
    return f"{definition['name']} ({definition['sha256'][:12]})"
