"""Judge findings by a policy and give the verdict."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from auditor.findings import formatting
from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.record import (
    AppliedAcceptanceRecord,
    FindingRecord,
    MetricRecord,
    MetricSpecRecord,
    ProbeRecord,
    Verdict,
    metric_spec,
    spec_of,
)
from auditor.policy.acceptance import at_matches
from auditor.policy.rules import GRADES, NAMED, Invalidation, Policy, Rule


def judge(probe: ProbeRecord, policy: Policy) -> ProbeRecord:
    """A probe's record (as in audit.json) with status, severity and reason by this policy."""
    if probe["status"] in {"error", "not-applicable"}:
        return probe
    judged = [_apply(rule, probe) for rule in policy.rules if rule.probe == probe["id"]]
    failed = [verdict for verdict in judged if verdict.status == "fail"]
    accepted = {id(v): v.metric and policy.accepts(probe["id"], v.metric, v.severity) for v in failed}
    findings = [_unjudged(finding) for finding in probe["findings"]]
    for verdict in failed:
        _mark(findings, verdict, accepted=accepted[id(verdict)] is not None)
    caveat = probe.get("caveat", "")
    result: ProbeRecord = {**probe, "findings": findings, "severity": "none"}
    result.pop("accepted", None)
    if failed:
        entries: list[AppliedAcceptanceRecord] = [
            {**a.plain(), "found": v.severity, "reason": v.reason} for v in failed if (a := accepted[id(v)])
        ]
        if entries:
            result["accepted"] = entries
        counted = [verdict for verdict in failed if not accepted[id(verdict)]]
        worst = max(counted or failed, key=lambda verdict: SEVERITIES.index(verdict.severity))
        if counted:
            return {**result, "status": "fail", "severity": worst.severity, "reason": worst.reason}
        # a failure all the same; without a severity it does not count towards the verdict
        return {**result, "status": "fail", "reason": f"{worst.reason}; {_acceptance(entries[0])}"}
    if caveat:
        return {**result, "status": "inconclusive", "reason": caveat}
    if not judged:
        return {**result, "status": "informative", "reason": "the policy sets no threshold for it"}
    open_ones = [verdict for verdict in judged if verdict.status == "inconclusive"]
    first = (open_ones or judged)[0]
    return {**result, "status": first.status, "reason": first.reason}


def judge_all(probes: Sequence[ProbeRecord], policy: Policy) -> list[ProbeRecord]:
    """The records of an audit judged each by itself, then the passes taken back that a failed check voids."""
    judged = [judge(probe, policy) for probe in probes]
    failed = {probe["id"]: probe for probe in judged if probe["status"] == "fail"}
    for void in policy.invalidations:
        if void.when in failed:
            check = failed[void.when]
            named = _named(check, policy, void.named_by) if void.named_by else None
            judged = [
                _voided(probe, void, check) if named is None or probe["id"] in named else probe for probe in judged
            ]
    return judged


def verdict(probes: Sequence[ProbeRecord], policy: Policy, broken: Sequence[str]) -> tuple[Verdict, str]:
    """The audit's verdict and why: fail before incomplete before pass."""
    limit = SEVERITIES.index(policy.fails_at)
    failed = [p for p in probes if p["status"] == "fail" and SEVERITIES.index(p["severity"]) >= limit]
    excused = [p for p in probes if p.get("accepted")]
    said = "; accepted by the policy: " + ", ".join(map(_excused, excused)) if excused else ""
    if failed:
        names = ", ".join(f"{p['id']} ({p['severity']})" for p in _by_severity(failed)[:NAMED])
        names += f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        why = f"{len(failed)} of {len(probes)} probes failed at severity {policy.fails_at} or above: {names}"
        return "fail", why + said
    status = {p["id"]: p["status"] for p in probes}
    reasons = [f"{p['id']} broke" for p in probes if p["status"] == "error"]
    reasons += [f"plugin {name} is broken" for name in broken]
    reasons += [
        f"{probe_id}: {status.get(probe_id, 'not run')}"
        for probe_id in policy.required
        if status.get(probe_id) not in {"pass", "fail", "error"}
    ]
    if reasons:
        return (
            "incomplete",
            f"no failure {'counts' if excused else 'found'}, but what a pass needs is missing: "
            + "; ".join(reasons)
            + said,
        )
    mild = [f"{p['id']} ({p['severity']})" for p in probes if p["status"] == "fail" and p["severity"] != "none"]
    unsettled = [p["id"] for p in probes if p["status"] == "inconclusive"]
    if not (mild or unsettled or excused):
        return "pass", "every threshold of the policy is met"
    parts = [f"no probe failed at severity {policy.fails_at} or above"]
    parts += [f"milder failures: {', '.join(mild)}"] if mild else []
    parts += [f"not settled: {', '.join(unsettled)}"] if unsettled else []
    return "pass", "; ".join(parts) + said


def _excused(probe: ProbeRecord) -> str:
    worst = max(probe["accepted"], key=lambda entry: SEVERITIES.index(entry["found"]))
    return f"{probe['id']} ({worst['found']}, until {worst['expires']})"


def at_or_above(probes: Sequence[ProbeRecord], level: str) -> bool:
    """Whether any failed probe is at least this severe (``--fail-on``)."""
    if level == "never":
        return False
    limit = SEVERITIES.index(cast(Severity, level))
    return any(p["status"] == "fail" and SEVERITIES.index(p["severity"]) >= limit for p in probes)


@dataclass(frozen=True)
class _Verdict:
    status: Literal["pass", "fail", "inconclusive"]
    severity: Severity
    reason: str
    metric: MetricRecord | None
    """None if the policy names a metric that was not measured."""


def _apply(rule: Rule, probe: ProbeRecord) -> _Verdict:
    """The worst verdict over all metrics that the rule names; inconclusive where none of them has a number."""
    spec = metric_spec(probe.get("metric_specs", []), rule.metric)
    matching = [m for m in probe["metrics"] if m["name"] == rule.metric and at_matches(rule.at, m["at"])]
    verdicts = [_compare(rule, metric, spec) for metric in matching if metric["value"] is not None]
    rank = {"pass": 0, "inconclusive": 1, "fail": 2}
    if not verdicts:
        text = f"the policy asks for {spec['label']}{formatting.place(rule.at)}, which was not measured"
        return _Verdict("inconclusive", "none", text, None)
    return max(verdicts, key=lambda v: (rank[v.status], SEVERITIES.index(v.severity)))


def _compare(rule: Rule, metric: MetricRecord, spec: MetricSpecRecord) -> _Verdict:
    sign = 1.0 if rule.side == "at_least" else -1.0
    ends = sorted(sign * end for end in _ends(metric))
    name, number = spec["label"] + formatting.place(metric["at"]), formatting.measured(metric, spec)
    words = f"{name} is {number} (n = {metric['n']})"
    for grade in reversed(GRADES):
        limit = rule.thresholds.get(grade)
        if limit is not None and ends[1] < sign * limit:
            return _Verdict("fail", grade, f"{words}; {_wanted(rule, limit, metric, spec)}: {rule.reason}", metric)
    mildest = next(rule.thresholds[grade] for grade in GRADES if grade in rule.thresholds)
    if ends[0] < sign * mildest:
        text = f"{words}; the interval does not clear the threshold: {_wanted(rule, mildest, metric, spec)}"
        return _Verdict("inconclusive", "none", text, metric)
    if rule.only_fails:
        return _Verdict("inconclusive", "none", f"{words}; {rule.only_fails}", metric)
    return _Verdict("pass", "none", f"{words}; {_wanted(rule, mildest, metric, spec)}", metric)


def _ends(metric: MetricRecord) -> tuple[float, float]:
    """Return the interval of a metric with a value; the value itself stands for an end that is missing."""
    value = metric["value"]
    assert value is not None
    low, high = metric["low"], metric["high"]
    return (value if low is None else low, value if high is None else high)


def _voided(probe: ProbeRecord, void: Invalidation, check: ProbeRecord) -> ProbeRecord:
    """Return the record, inconclusive if it had passed and the reason invalidates it."""

    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(probe["id"], pattern) for pattern in patterns)

    if probe["status"] != "pass" or not among(void.probes) or among(void.but):
        return probe
    reason = f"{void.reason} ({check['id']} failed: {check['reason']}); by itself: {probe['reason']}"
    return {**probe, "status": "inconclusive", "reason": reason}


def _named(check: ProbeRecord, policy: Policy, key: str) -> set[str]:
    """What the failed numbers of a check name under ``key``."""
    specs = {metric["name"]: spec_of(check, metric) for metric in check["metrics"]}
    return {
        str(metric["at"][key])
        for rule in policy.rules
        if rule.probe == check["id"]
        for metric in check["metrics"]
        if metric["name"] == rule.metric
        and metric["value"] is not None
        and key in metric["at"]
        and at_matches(rule.at, metric["at"])
        and _compare(rule, metric, specs[rule.metric]).status == "fail"
    }


def _unjudged(finding: FindingRecord) -> FindingRecord:
    result: FindingRecord = {**finding, "severity": "none"}
    result.pop("accepted", None)
    return result


def _acceptance(entry: AppliedAcceptanceRecord) -> str:
    return f"accepted by {entry['author']} until {entry['expires']}: {entry['justification']}"


def _mark(findings: list[FindingRecord], verdict: _Verdict, *, accepted: bool) -> None:
    """Give the severity to the finding that speaks of this metric, or to the first one."""
    about = [f for f in findings if f["metric"] and verdict.metric and _same(f["metric"], verdict.metric)] or findings[
        :1
    ]
    for finding in about:
        if accepted and finding["severity"] == "none":
            finding["accepted"] = True
        if not accepted:
            # what is accepted of a finding does not excuse the rest of it
            finding.pop("accepted", None)
        if SEVERITIES.index(verdict.severity) > SEVERITIES.index(finding["severity"]):
            finding["severity"] = verdict.severity


def _same(a: MetricRecord, b: MetricRecord) -> bool:
    return a["name"] == b["name"] and a["at"] == b["at"]


def _wanted(rule: Rule, limit: float, metric: MetricRecord, spec: MetricSpecRecord) -> str:
    return f"expected {rule.side.replace('_', ' ')} {formatting.value({**metric, 'value': limit}, spec)}"


def _by_severity(probes: Sequence[ProbeRecord]) -> list[ProbeRecord]:
    return sorted(probes, key=lambda p: -SEVERITIES.index(p["severity"]))
