"""Judge findings by a policy and give the verdict."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from auditor.findings import formatting
from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.losses import unjudged_losses
from auditor.findings.record import (
    AppliedAcceptanceRecord,
    FindingRecord,
    JudgementRecord,
    MetricRecord,
    MetricSpecRecord,
    ProbeRecord,
    Verdict,
    metric_spec,
    spec_of,
)
from auditor.policy.acceptance import at_matches
from auditor.policy.rules import NAMED, Invalidation, Policy, Rule
from auditor.policy.severity import GRADES


def judge(probe: ProbeRecord, policy: Policy) -> ProbeRecord:
    """A probe's record (as in audit.json) with status, severity and reason by this policy."""
    judged = _judged(probe, policy)
    note = probe.get("note", "")
    if not note or probe["status"] in {"error", "not-applicable"}:
        return judged
    return {**judged, "reason": f"{judged['reason']}; {note}"}


def _judged(probe: ProbeRecord, policy: Policy) -> ProbeRecord:
    if probe["status"] in {"error", "not-applicable"}:
        return probe
    rules = [rule for rule in policy.rules if rule.probe == probe["id"]]
    judged = [verdict for rule in rules for verdict in _apply(rule, probe)]
    failed = [verdict for verdict in judged if verdict.status == "fail"]
    accepted = {id(v): v.metric and policy.accepts(probe["id"], v.metric, v.severity) for v in failed}
    findings = [_unjudged(finding) for finding in probe["findings"]]
    for verdict in failed:
        _mark(findings, verdict, accepted=accepted[id(verdict)] is not None)
    caveat = probe.get("caveat", "")
    result: ProbeRecord = {**probe, "findings": findings, "severity": "none"}
    result["judgements"] = [_judgement(verdict) for verdict in judged if verdict.metric]
    result.pop("accepted", None)
    result.pop("invalidated_by", None)
    if failed:
        entries: list[AppliedAcceptanceRecord] = [
            {**a.plain(), "found": v.severity, "reason": v.reason} for v in failed if (a := accepted[id(v)])
        ]
        if entries:
            result["accepted"] = entries
        counted = [verdict for verdict in failed if not accepted[id(verdict)]]
        worst = max(counted or failed, key=lambda verdict: SEVERITIES.index(verdict.severity))
        if counted:
            more = f"; {len(counted) - 1} more failed" if len(counted) > 1 else ""
            return {**result, "status": "fail", "severity": worst.severity, "reason": worst.reason + more}
        # a failure all the same; without a severity it does not count towards the verdict
        return {**result, "status": "fail", "reason": f"{worst.reason}; {_acceptance(entries[0])}"}
    if caveat:
        return {**result, "status": "inconclusive", "reason": caveat}
    if not judged:
        return {**result, "status": "informative", "reason": policy.why_unjudged(probe["id"])}
    binding = [verdict for verdict in judged if not verdict.advisory] or judged
    open_ones = [verdict for verdict in binding if verdict.status == "inconclusive"]
    candidates = open_ones or binding
    # the reason of a pass is about the key metric, if that was judged
    first = next((verdict for verdict in candidates if verdict.metric in probe["metrics"][:1]), candidates[0])
    return {**result, "status": first.status, "reason": first.reason}


def judge_all(probes: Sequence[ProbeRecord], policy: Policy) -> list[ProbeRecord]:
    """The records of an audit judged each by itself, then the passes taken back that a failed check voids."""
    judged = [judge(probe, policy) for probe in probes]
    failed = {probe["id"]: probe for probe in judged if probe["status"] == "fail"}
    for void in policy.invalidations:
        check = failed.get(void.when)
        # a check that another one has invalidated proves nothing itself
        if check is None or SEVERITIES.index(check["severity"]) < SEVERITIES.index(void.severity):
            continue
        if not any(probe["id"] == void.when and probe["status"] == "fail" for probe in judged):
            continue
        if void.metric and not any(j["metric"] == void.metric and j["status"] == "fail" for j in check["judgements"]):
            continue
        named = _named(check, policy, void.named_by) if void.named_by else None
        judged = [_voided(probe, void, check) if named is None or probe["id"] in named else probe for probe in judged]
    return judged


def verdict(
    probes: Sequence[ProbeRecord], policy: Policy, broken: Sequence[str], *, unanswered: int = 0
) -> tuple[Verdict, str]:
    """The audit's verdict and why: fail before incomplete before pass.

    Every probe leaves out images that the model gives no answer for, so a model that passes on the others has not
    passed: ``unanswered`` counts them.
    """
    limit = SEVERITIES.index(policy.fails_at)
    failed = [p for p in probes if p["status"] == "fail" and SEVERITIES.index(p["severity"]) >= limit]
    excused = [p for p in probes if p.get("accepted")]
    said = "; accepted by the policy: " + ", ".join(map(_excused, excused)) if excused else ""
    if failed:
        names = ", ".join(f"{p['id']} ({p['severity']})" for p in _by_severity(failed)[:NAMED])
        names += f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        why = f"{len(failed)} of {len(probes)} probes failed at severity {policy.fails_at} or above: {names}"
        return "fail", why + _consequence(failed, probes, policy) + said
    said = _large_losses(probes) + said
    status = {p["id"]: p["status"] for p in probes}
    reasons = [f"{p['id']} broke" for p in probes if p["status"] == "error"]
    reasons += [f"plugin {name} is broken" for name in broken]
    if unanswered:
        images = formatting.counted(unanswered, "image")
        reasons.append(f"finite scores: the model returned NaN or infinity for {images}")
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
        return "pass", "every threshold of the policy is met" + said
    parts = [f"no probe failed at severity {policy.fails_at} or above"]
    parts += [f"milder failures: {', '.join(mild)}"] if mild else []
    parts += [f"not settled: {', '.join(unsettled)}"] if unsettled else []
    return "pass", "; ".join(parts) + said


def _large_losses(probes: Sequence[ProbeRecord]) -> str:
    """Name the large losses that no rule judged: without them, the absence of a failure would say too much."""
    losses = unjudged_losses(probes)
    if not losses:
        return ""
    named = "; ".join(f"{loss.probe['id']}: {loss.text}" for loss in losses[:3])
    more = f"; and {len(losses) - 3} more" if len(losses) > 3 else ""
    return f"; large losses that the policy does not judge: {named}{more}"


def _consequence(failed: Sequence[ProbeRecord], probes: Sequence[ProbeRecord], policy: Policy) -> str:
    """Say for each failed check how many other results it invalidates, and why."""
    texts = []
    for check in failed:
        n = sum(probe.get("invalidated_by") == check["id"] for probe in probes)
        reasons = [void.reason for void in policy.invalidations if void.when == check["id"]]
        if n and reasons:
            others = formatting.counted(n, "other probe is", "other probes are")
            texts.append(f"{reasons[0]} (for this reason, {others} inconclusive)")
    return "".join(f"; {text}" for text in texts)


def _excused(probe: ProbeRecord) -> str:
    worst = max(probe["accepted"], key=lambda entry: SEVERITIES.index(entry["found"]))
    return f"{probe['id']} ({worst['found']}, until {worst['expires']})"


def at_or_above(probes: Sequence[ProbeRecord], level: str) -> bool:
    """Whether any failed probe is at least this severe (``--fail-on``)."""
    if level == "never":
        return False
    limit = SEVERITIES.index(cast(Severity, level))
    return any(p["status"] == "fail" and SEVERITIES.index(p["severity"]) >= limit for p in probes)


_POINT = 1e-6
"""An interval narrower than this is one point."""


@dataclass(frozen=True)
class _Verdict:
    status: Literal["pass", "fail", "inconclusive"]
    severity: Severity
    reason: str
    metric: MetricRecord | None
    """None if the policy names a metric that was not measured."""
    advisory: bool = False
    """Whether only a failure counts."""
    rule: Rule | None = None
    """The rule, once it is applied."""


def _apply(rule: Rule, probe: ProbeRecord) -> list[_Verdict]:
    """The verdict on each metric that the rule names; one inconclusive verdict if none of them has a number."""
    return [replace(found, advisory=rule.advisory, rule=rule) for found in _verdicts(rule, probe)]


def _verdicts(rule: Rule, probe: ProbeRecord) -> list[_Verdict]:
    spec = metric_spec(probe.get("metric_specs", []), rule.metric)
    # 0 of 0 is neither a failure nor a pass
    named = [m for m in probe["metrics"] if m["name"] == rule.metric and m["value"] is not None and m["n"] > 0]
    verdicts = [_compare(rule, metric, spec) for metric in named if at_matches(rule.at, metric["at"])]
    if verdicts:
        return verdicts
    decided = _by_monotonicity(rule, named, spec)
    if decided:
        return [decided]
    text = f"the policy asks for {spec['label']}{formatting.place(rule.at)}, which was not measured"
    if spec.get("monotone") in rule.at and (near := [m for m in named if _same_line(rule, m, str(spec["monotone"]))]):
        levels = ", ".join(formatting.measured_at({spec["monotone"]: m["at"][spec["monotone"]]}) for m in near)
        text += f"; it follows neither from a failure at a smaller nor from a pass at a larger value ({levels})"
    return [_Verdict("inconclusive", "none", text, None)]


def _by_monotonicity(rule: Rule, named: Sequence[MetricRecord], spec: MetricSpecRecord) -> _Verdict | None:
    """Decide a rule from metrics at other perturbation sizes: a larger budget can only make the value worse.

    A failure at a smaller size is a failure at the size of the rule; a pass at a larger size is a pass.
    """
    key = spec.get("monotone", "")
    if not key or key not in rule.at:
        return None
    wanted = float(cast(float, rule.at[key]))
    by_size = {float(cast(float, m["at"][key])): m for m in named if _same_line(rule, m, key)}
    for size, metric in sorted(by_size.items()):
        found = _compare(rule, metric, spec)
        if (found.status == "fail" and size < wanted) or (found.status == "pass" and size > wanted):
            what = "lower" if size < wanted else "higher"
            place = formatting.place(rule.at).removeprefix(" at ")
            return replace(found, reason=f"{found.reason} (not measured at {place}, where the threshold applies; the"
                           f" value there can only be {what})")  # fmt: skip
    return None


def _same_line(rule: Rule, metric: MetricRecord, key: str) -> bool:
    """Whether a metric differs from what the rule names only in the perturbation size, and is not the clean value."""
    others = {name: value for name, value in rule.at.items() if name != key}
    return at_matches(others, metric["at"]) and bool(metric["at"].get(key))


def _compare(rule: Rule, metric: MetricRecord, spec: MetricSpecRecord) -> _Verdict:
    if rule.side == "at_most_lost":
        if "clean" not in metric:
            text = f"{spec['label']}{formatting.place(metric['at'])} has no clean accuracy to compare with"
            return _Verdict("inconclusive", "none", text, metric)
        return replace(_compare_number(rule, *_loss(metric, spec)), metric=metric)
    return _compare_number(rule, metric, spec)


def _loss(metric: MetricRecord, spec: MetricSpecRecord) -> tuple[MetricRecord, MetricSpecRecord]:
    """Return the loss from the clean value, on the same images, as a metric; the clean value counts as known."""
    clean, (value, low, high) = metric["clean"], (metric[end] for end in ("value", "low", "high"))

    def lost(end: float | None) -> float | None:
        return None if end is None else clean - end

    loss: MetricRecord = {**metric, "value": lost(value), "low": lost(high), "high": lost(low)}
    label = f"Loss of {formatting.lower(spec['label'])} from {formatting.formatted(clean, 'percent')}"
    return loss, {**spec, "label": label, "better": "lower", "difference": True}


def _compare_number(rule: Rule, metric: MetricRecord, spec: MetricSpecRecord) -> _Verdict:
    sign = 1.0 if rule.side == "at_least" else -1.0
    name, number = spec["label"] + formatting.place(metric["at"]), formatting.measured(metric, spec)
    words = f"{name}: {number} (n = {formatting.sample_size(metric)})"
    ends = _ends(metric, spec)
    if ends is None:
        return _Verdict("inconclusive", "none", f"{words}; without an interval it is no evidence", metric)
    best, worst = max(sign * end for end in ends), min(sign * end for end in ends)
    if spec["bound"] != "exact" and abs(ends[1] - ends[0]) < _POINT and _units(metric) < rule.min_n:
        text = f"{words}; an interval of one point from fewer than {rule.min_n} {_kind(metric)} is no evidence"
        return _Verdict("inconclusive", "none", text, metric)
    for grade in reversed(GRADES):
        limit = rule.thresholds.get(grade)
        if limit is not None and best < sign * limit:
            return _Verdict("fail", grade, f"{words}; {_wanted(rule, limit, metric, spec)}: {rule.reason}", metric)
    smallest = rule.smallest_n(share=metric["unit"] == "fraction" and not spec["difference"])
    missing = smallest - _units(metric)
    are = "is" if missing == 1 else "are"
    more = f"; the rule needs at least {smallest} {_kind(metric)}, so {missing} {are} missing" if missing > 0 else ""
    wanted = _wanted(rule, rule.mildest, metric, spec)
    if worst < sign * rule.mildest:
        return _Verdict("inconclusive", "none", f"{words}; the interval contains the threshold: {wanted}{more}", metric)
    if more:
        return _Verdict("inconclusive", "none", f"{words}; {wanted}{more}", metric)
    if spec["bound"] != "exact" and ends[0] == ends[1]:
        return _Verdict("inconclusive", "none", f"{words}; an interval of one point is no evidence", metric)
    if rule.only_fails:
        return _Verdict("inconclusive", "none", f"{words}; {rule.only_fails}", metric)
    return _Verdict("pass", "none", f"{words}; {wanted}", metric)


def _units(metric: MetricRecord) -> int:
    """Return the number of independent observations of a metric: of units if the data states them, else of images."""
    units = metric.get("units")
    return metric["n"] if units is None else units


def _kind(metric: MetricRecord) -> str:
    return "images" if metric.get("units") is None else "units"


def _ends(metric: MetricRecord, spec: MetricSpecRecord) -> tuple[float, float] | None:
    """Return the interval of a metric with a value, the value itself if it is exact; None without an interval."""
    value, low, high = metric["value"], metric["low"], metric["high"]
    if low is not None and high is not None:
        return low, high
    if value is None or spec["bound"] != "exact":
        return None
    return value, value


def _voided(probe: ProbeRecord, void: Invalidation, check: ProbeRecord) -> ProbeRecord:
    """Return the record, inconclusive if it had passed and the check invalidates it.

    With ``failures`` it is inconclusive whether it had passed, failed or not been judged: its numbers mean nothing.
    """

    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(probe["id"], pattern) for pattern in patterns)

    affected = {"pass", "fail", "informative", "inconclusive"} if void.failures else {"pass"}
    affected -= {"inconclusive"} if probe.get("invalidated_by") else set()
    if probe["status"] not in affected or probe["id"] == check["id"] or not among(void.probes) or among(void.but):
        return probe
    reason = f"{void.reason} ({check['id']} failed); by itself: {probe['reason']}"
    result: ProbeRecord = {**probe, "status": "inconclusive", "severity": "none", "reason": reason}
    if void.failures:
        result["invalidated_by"] = check["id"]
    result["findings"] = [_unjudged(finding) for finding in probe["findings"]]
    result.pop("accepted", None)
    return result


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


def _judgement(verdict: _Verdict) -> JudgementRecord:
    """One rule applied to one metric, as recorded in audit.json."""
    assert verdict.metric is not None
    assert verdict.rule is not None
    rule = verdict.rule
    return {
        "metric": verdict.metric["name"],
        "at": verdict.metric["at"],
        "status": verdict.status,
        "severity": verdict.severity,
        "reason": verdict.reason,
        "side": rule.side,
        "limit": rule.mildest,
        "rationale": rule.reason,
        "source": rule.source,
    }


def _unjudged(finding: FindingRecord) -> FindingRecord:
    result: FindingRecord = {**finding, "severity": "none"}
    result.pop("accepted", None)
    return result


def _acceptance(entry: AppliedAcceptanceRecord) -> str:
    return f"accepted by {entry['author']} until {entry['expires']}: {entry['justification']}"


def _mark(findings: list[FindingRecord], verdict: _Verdict, *, accepted: bool) -> None:
    """Give the severity to the findings about this metric; without one, to the first of its name, or to the first."""
    about = [f for f in findings if f["metric"] and verdict.metric and _same(f["metric"], verdict.metric)]
    named = [f for f in findings if f["metric"] and verdict.metric and f["metric"]["name"] == verdict.metric["name"]]
    for finding in about or named[:1] or findings[:1]:
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
    side = "at least" if rule.side == "at_least" else "at most"
    return f"expected {side} {formatting.value({**metric, 'value': limit}, spec)}"


def _by_severity(probes: Sequence[ProbeRecord]) -> list[ProbeRecord]:
    return sorted(probes, key=lambda p: -SEVERITIES.index(p["severity"]))
