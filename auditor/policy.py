"""Judging: thresholds on the ends of intervals, apart from measuring, so that it can be done again without the model.

A rule names a metric and up to four thresholds. The number fails at a severity when its whole interval lies on the
wrong side of that threshold; it passes when its whole interval lies on the right side of the mildest one; in between
nothing can be said, and that is what the report says.

A void says which passes a failed check of the measurement takes back: what a broken attack did not find is no pass.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from auditor import numbers
from auditor.errors import BadInput
from auditor.finding import SEVERITIES, Severity
from auditor.registry import read_toml, refuse_unknown
from auditor.store import digest

_GRADES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
_RULE_KEYS = {"probe", "metric", "at", "at_least", "at_most", "only_fails", "reason", "source"}
_VOID_KEYS = {"when", "probes", "except", "named_by", "reason", "source"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One threshold, or up to four of them, on one metric."""

    probe: str
    metric: str
    at: Mapping[str, Any]
    side: Literal["at_least", "at_most"]
    thresholds: Mapping[Severity, float]
    reason: str
    source: str
    only_fails: str = ""
    """Why meeting this rule shows nothing (surviving a weak attack); empty when it does."""


@dataclass(frozen=True, kw_only=True)
class Void:
    """When a check of the measurement fails, passes that rest on the measurement become inconclusive."""

    when: str
    """The probe whose failure it is."""
    probes: Sequence[str]
    """Ids or globs of the probes whose passes are taken back."""
    but: Sequence[str]
    """Ids or globs of those among them that do not rest on the check: ``except`` in the file."""
    reason: str
    source: str
    named_by: str = ""
    """A key of ``at``: only those probes are voided that a failed number of ``when`` names there."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an audit must meet."""

    name: str
    rules: Sequence[Rule]
    voids: Sequence[Void] = ()
    required: Sequence[str] = ()
    """Probes without whose pass the verdict cannot be pass."""
    fails_at: Severity = "low"
    """The least severity of a failed probe at which the verdict is fail."""
    sha256: str = field(default="")


def builtin() -> dict[str, Path]:
    """The policies in the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "policies").glob("*.toml"))}


def read_policy(name: str, probes: Collection[str] | None = None) -> Policy:
    """The built-in policy called ``name``, or the one in the file ``name``.

    Raises BadInput, also for a rule on a probe that is not among ``probes``: a misspelt rule must not look like one
    that is met.
    """
    path = builtin().get(name) or Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise BadInput(f"--policy {name}: no such policy; expected one of {', '.join(builtin())} or a TOML file")
    content = read_toml(path)
    refuse_unknown(content, {"title", "required", "fails_at", "rule", "void"}, str(path))
    fails_at = content.get("fails_at", "low")
    if fails_at not in _GRADES:
        raise BadInput(f"{path}: fails_at is {fails_at!r}; expected one of {', '.join(_GRADES)}")
    required, rules = content.get("required", []), content.get("rule", [])
    if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        raise BadInput(f"{path}: required is {required!r}; expected a list of probe ids")
    if not (isinstance(rules, list) and all(isinstance(entry, dict) for entry in rules)):
        raise BadInput(f"{path}: rule is {rules!r}; expected one table [[rule]] per rule")
    parsed = [_rule(entry, f"{path}: rule {i + 1}") for i, entry in enumerate(rules)]
    entries = content.get("void", [])
    if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise BadInput(f"{path}: void is {entries!r}; expected one table [[void]] per void")
    voids = [_void(entry, f"{path}: void {i + 1}") for i, entry in enumerate(entries)]
    for probe_id in [*required, *(rule.probe for rule in parsed), *(void.when for void in voids)]:
        if probes is not None and probe_id not in probes:
            raise BadInput(f"{path}: names the probe {probe_id!r}, but there is none (see `auditor probes`)")
    return Policy(
        name=path.stem,
        rules=parsed,
        voids=voids,
        required=required,
        fails_at=cast(Severity, fails_at),
        sha256=digest(content),
    )


def judge(probe: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """A probe's record (as in audit.json) with status, severity and reason by this policy."""
    if probe["status"] in {"error", "not-applicable"}:
        return probe
    judged = [_apply(rule, probe["metrics"]) for rule in policy.rules if rule.probe == probe["id"]]
    failed = [verdict for verdict in judged if verdict.status == "fail"]
    findings = [{**finding, "severity": "none"} for finding in probe["findings"]]
    for verdict in failed:
        _mark(findings, verdict)
    caveat = probe.get("caveat", "")
    result = {**probe, "findings": findings, "severity": "none"}
    if failed:
        worst = max(failed, key=lambda verdict: SEVERITIES.index(verdict.severity))
        return {**result, "status": "fail", "severity": worst.severity, "reason": worst.reason}
    if caveat:
        return {**result, "status": "inconclusive", "reason": caveat}
    if not judged:
        return {**result, "status": "informative", "reason": "the policy sets no threshold for it"}
    open_ones = [verdict for verdict in judged if verdict.status == "inconclusive"]
    first = (open_ones or judged)[0]
    return {**result, "status": first.status, "reason": first.reason}


def judge_all(probes: Sequence[dict[str, Any]], policy: Policy) -> list[dict[str, Any]]:
    """The records of an audit judged each by itself, then the passes taken back that a failed check voids."""
    judged = [judge(probe, policy) for probe in probes]
    failed = {probe["id"]: probe for probe in judged if probe["status"] == "fail"}
    for void in policy.voids:
        if void.when in failed:
            check = failed[void.when]
            named = _named(check, policy, void.named_by) if void.named_by else None
            judged = [_voided(probe, void, check) if named is None or probe["id"] in named else probe
                      for probe in judged]  # fmt: skip
    return judged


def verdict(probes: Sequence[Mapping[str, Any]], policy: Policy, broken: Sequence[str]) -> tuple[str, str]:
    """The audit's verdict and why: fail before incomplete before pass."""
    limit = SEVERITIES.index(policy.fails_at)
    failed = [p for p in probes if p["status"] == "fail" and SEVERITIES.index(p["severity"]) >= limit]
    if failed:
        names = ", ".join(f"{p['id']} ({p['severity']})" for p in _by_severity(failed))
        return "fail", f"{len(failed)} of {len(probes)} probes failed at severity {policy.fails_at} or above: {names}"
    status = {p["id"]: p["status"] for p in probes}
    reasons = [f"{p['id']} broke" for p in probes if p["status"] == "error"]
    reasons += [f"plugin {name} is broken" for name in broken]
    reasons += [f"{probe_id}: {status.get(probe_id, 'not run')}" for probe_id in policy.required
                if status.get(probe_id) not in {"pass", "fail", "error"}]  # fmt: skip
    if reasons:
        return "incomplete", "no failure found, but what a pass needs is missing: " + "; ".join(reasons)
    mild = [f"{p['id']} ({p['severity']})" for p in probes if p["status"] == "fail"]
    unsettled = [p["id"] for p in probes if p["status"] == "inconclusive"]
    if not (mild or unsettled):
        return "pass", "every threshold of the policy is met"
    parts = [f"no probe failed at severity {policy.fails_at} or above"]
    parts += [f"milder failures: {', '.join(mild)}"] if mild else []
    parts += [f"not settled: {', '.join(unsettled)}"] if unsettled else []
    return "pass", "; ".join(parts)


def at_or_above(probes: Sequence[Mapping[str, Any]], level: str) -> bool:
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
    metric: Mapping[str, Any]


def _apply(rule: Rule, metrics: Sequence[Mapping[str, Any]]) -> _Verdict:
    """The worst verdict over all metrics that the rule names; inconclusive where none of them has a number."""
    matching = [m for m in metrics if m["name"] == rule.metric and _at_matches(rule.at, m["at"])]
    verdicts = [_compare(rule, metric) for metric in matching if metric["value"] is not None]
    rank = {"pass": 0, "inconclusive": 1, "fail": 2}
    if not verdicts:
        wanted: dict[str, Any] = {"name": rule.metric, "at": rule.at}
        text = f"the policy asks for {numbers.name(wanted)}{numbers.place(wanted)}, which was not measured"
        return _Verdict("inconclusive", "none", text, wanted)
    return max(verdicts, key=lambda v: (rank[v.status], SEVERITIES.index(v.severity)))


def _compare(rule: Rule, metric: Mapping[str, Any]) -> _Verdict:
    sign = 1.0 if rule.side == "at_least" else -1.0
    ends = sorted(sign * (metric[end] if metric[end] is not None else metric["value"]) for end in ("low", "high"))
    words = f"{numbers.name(metric)}{numbers.place(metric)} is {numbers.measured(metric)} (n = {metric['n']})"
    for grade in reversed(_GRADES):
        limit = rule.thresholds.get(grade)
        if limit is not None and ends[1] < sign * limit:
            return _Verdict("fail", grade, f"{words}; {_wanted(rule, limit, metric)}: {rule.reason}", metric)
    mildest = next(rule.thresholds[grade] for grade in _GRADES if grade in rule.thresholds)
    if ends[0] < sign * mildest:
        text = f"{words}; the interval does not clear the threshold: {_wanted(rule, mildest, metric)}"
        return _Verdict("inconclusive", "none", text, metric)
    if rule.only_fails:
        return _Verdict("inconclusive", "none", f"{words}; {rule.only_fails}", metric)
    return _Verdict("pass", "none", f"{words}; {_wanted(rule, mildest, metric)}", metric)


def _voided(probe: dict[str, Any], void: Void, check: Mapping[str, Any]) -> dict[str, Any]:
    """The record, inconclusive where it had passed and the void speaks of it."""

    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(probe["id"], pattern) for pattern in patterns)

    if probe["status"] != "pass" or not among(void.probes) or among(void.but):
        return probe
    reason = f"{void.reason} ({check['id']} failed: {check['reason']}); by itself: {probe['reason']}"
    return {**probe, "status": "inconclusive", "reason": reason}


def _named(check: Mapping[str, Any], policy: Policy, key: str) -> set[str]:
    """What the failed numbers of a check name under ``key``."""
    return {
        str(metric["at"][key])
        for rule in policy.rules
        if rule.probe == check["id"]
        for metric in check["metrics"]
        if metric["name"] == rule.metric and metric["value"] is not None and key in metric["at"]
        and _at_matches(rule.at, metric["at"]) and _compare(rule, metric).status == "fail"
    }  # fmt: skip


def _mark(findings: list[dict[str, Any]], verdict: _Verdict) -> None:
    """Give the severity to the finding that speaks of this metric, or to the first one."""
    about = [f for f in findings if f["metric"] and _same(f["metric"], verdict.metric)] or findings[:1]
    for finding in about:
        if SEVERITIES.index(verdict.severity) > SEVERITIES.index(finding["severity"]):
            finding["severity"] = verdict.severity


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["name"] == b["name"] and a["at"] == b["at"])


def _at_matches(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return math.isclose(a, b, rel_tol=1e-2) if numbers else a == b

    return all(key in found and equal(value, found[key]) for key, value in wanted.items())


def _wanted(rule: Rule, limit: float, metric: Mapping[str, Any]) -> str:
    return f"expected {rule.side.replace('_', ' ')} {numbers.value({**metric, 'value': limit})}"


def _by_severity(probes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(probes, key=lambda p: -SEVERITIES.index(p["severity"]))


def _rule(entry: Mapping[str, Any], where: str) -> Rule:
    refuse_unknown(entry, _RULE_KEYS, where)
    for key in ("probe", "metric", "reason", "source"):
        if not isinstance(entry.get(key), str):
            raise BadInput(f"{where}: has no {key}; a rule says probe, metric, at_least or at_most, reason and source")
    sides = [side for side in ("at_least", "at_most") if side in entry]
    if len(sides) != 1:
        raise BadInput(f"{where}: expected exactly one of at_least and at_most, found {len(sides)}")
    thresholds = entry[sides[0]]
    if not isinstance(thresholds, dict) or not thresholds or set(thresholds) - set(_GRADES):
        raise BadInput(f"{where}: {sides[0]} must map some of {', '.join(_GRADES)} to numbers")
    if not isinstance(entry.get("at", {}), dict):
        raise BadInput(f"{where}: at is {entry['at']!r}; expected a table such as {{ norm = 'linf' }}")
    if not isinstance(entry.get("only_fails", ""), str):
        raise BadInput(f"{where}: only_fails is {entry['only_fails']!r}; expected a text, the reason")
    ordered = [thresholds[grade] for grade in _GRADES if grade in thresholds]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in ordered):
        raise BadInput(f"{where}: {sides[0]} must map severities to numbers")
    if ordered != sorted(ordered, reverse=sides[0] == "at_least"):
        raise BadInput(f"{where}: a more severe threshold must be further from the goal than a milder one")
    return Rule(
        probe=entry["probe"], metric=entry["metric"], at=entry.get("at", {}),
        side=cast(Literal["at_least", "at_most"], sides[0]), thresholds=thresholds,
        reason=entry["reason"], source=entry["source"], only_fails=entry.get("only_fails", ""),
    )  # fmt: skip


def _void(entry: Mapping[str, Any], where: str) -> Void:
    refuse_unknown(entry, _VOID_KEYS, where)
    for key in ("when", "reason", "source"):
        if not isinstance(entry.get(key), str):
            raise BadInput(f"{where}: has no {key}; a void says when, probes, reason and source")
    probes, but = entry.get("probes"), entry.get("except", [])
    for key, names in (("probes", probes), ("except", but)):
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)) or not (
            names or key != "probes"
        ):
            raise BadInput(f'{where}: {key} is {names!r}; expected a list of ids or globs such as ["attacks.*"]')
    if not isinstance(entry.get("named_by", ""), str):
        raise BadInput(f"{where}: named_by is {entry['named_by']!r}; expected a key of a metric's at")
    return Void(
        when=entry["when"], probes=probes or (), but=but, named_by=entry.get("named_by", ""), reason=entry["reason"],
        source=entry["source"],
    )  # fmt: skip
