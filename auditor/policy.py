"""Judging: thresholds on the ends of intervals, apart from measuring, so that it can be done again without the model.

A rule names a metric and up to four thresholds. The number fails at a severity when its whole interval lies on the
wrong side of that threshold; it passes when its whole interval lies on the right side of the mildest one; in between
nothing can be said, and that is what the report says.

An accepted failure (``acceptance.py``) stays a failure; its severity is "none", so that it does not count.
A void says which passes a failed check of the measurement takes back: what a broken attack did not find is no pass.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from auditor import numbers
from auditor.acceptance import Acceptance, at_matches, read_acceptance, states
from auditor.errors import BadInput
from auditor.finding import SEVERITIES, Severity
from auditor.registry import read_toml, refuse_unknown
from auditor.store import digest

_GRADES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
_NAMED = 6
"""So many failed probes are named in the verdict's reason; the table of probes has them all."""
_RULE_KEYS = {"probe", "metric", "at", "at_least", "at_most", "only_fails", "reason", "source"}
_POLICY_KEYS = {"title", "extends", "required", "fails_at", "rule", "void", "accepted"}
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
    accepted: Sequence[Acceptance] = ()
    today: dt.date = field(default_factory=dt.date.today)
    """The day on which is judged: accepted findings expire."""
    sha256: str = field(default="")

    def accepts(self, probe_id: str, metric: Mapping[str, Any], severity: Severity) -> Acceptance | None:
        """The acceptance that covers this failure, if there is one."""
        about = (each for each in self.accepted if each.probe == probe_id)
        return next((each for each in about if each.covers(metric, severity, self.today)), None)

    def described(self, probes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The policy as it stands in audit.json beside the probes that it has judged."""
        accepted = states(self.accepted, probes, self.today)
        return {"name": self.name, "sha256": self.sha256, "judged": self.today.isoformat(), "accepted": accepted}


def builtin() -> dict[str, Path]:
    """The policies in the package, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "policies").glob("*.toml"))}


def read_policy(name: str, probes: Collection[str] | None = None, today: dt.date | None = None) -> Policy:
    """The built-in policy called ``name``, or the one in the file ``name``, for judging ``today``.

    Raises BadInput, also for a rule on a probe that is not among ``probes``: a misspelt rule must not look like one
    that is met.
    """
    path = _path(name)
    content = _content(path)
    fails_at = content.get("fails_at", "low")
    if fails_at not in _GRADES:
        raise BadInput(f"{path}: fails_at is {fails_at!r}; expected one of {', '.join(_GRADES)}")
    required = content.get("required", [])
    if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        raise BadInput(f"{path}: required is {required!r}; expected a list of probe ids")
    rules = [_rule(entry, f"{path}: rule {i + 1}") for i, entry in enumerate(content["rule"])]
    voids = [_void(entry, f"{path}: void {i + 1}") for i, entry in enumerate(content["void"])]
    accepted = [read_acceptance(entry, f"{path}: accepted {i + 1}") for i, entry in enumerate(content["accepted"])]
    named = [*(rule.probe for rule in rules), *(void.when for void in voids), *(each.probe for each in accepted)]
    for probe_id in [*required, *named]:
        if probes is not None and probe_id not in probes:
            raise BadInput(f"{path}: names the probe {probe_id!r}, but there is none (see `auditor probes`)")
    return Policy(
        name=path.stem,
        rules=rules,
        voids=voids,
        accepted=accepted,
        required=required,
        fails_at=cast(Severity, fails_at),
        today=today or dt.date.today(),
        sha256=digest({**content, "accepted": [each.plain() for each in accepted]}),
    )


def _path(name: str, beside: Path = Path()) -> Path:
    path = builtin().get(name) or beside / name
    if path.suffix != ".toml" or not path.is_file():
        raise BadInput(f"--policy {name}: no such policy; expected one of {', '.join(builtin())} or a TOML file")
    return path


def _content(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """What a policy file says, on top of what it extends: a rule on the same number replaces the one below it."""
    content = read_toml(path)
    refuse_unknown(content, _POLICY_KEYS, str(path))
    for key in ("rule", "void", "accepted"):
        entries = content.setdefault(key, [])
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            raise BadInput(f"{path}: {key} is {entries!r}; expected one table [[{key}]] per {key}")
    if "extends" not in content:
        return content
    below = content.pop("extends")
    if not isinstance(below, str) or path in above:
        raise BadInput(f"{path}: extends is {below!r}; expected a built-in policy or another file, in no circle")
    base = _content(_path(below, path.parent), [*above, path])
    replaced = [_about(entry) for entry in content["rule"]]
    content["rule"] = [entry for entry in base["rule"] if _about(entry) not in replaced] + content["rule"]
    content["void"] = base["void"] + content["void"]
    content["accepted"] = base["accepted"] + content["accepted"]
    return {**base, **content}


def _about(rule: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which number a rule speaks of."""
    return rule.get("probe"), rule.get("metric"), rule.get("at", {})


def judge(probe: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """A probe's record (as in audit.json) with status, severity and reason by this policy."""
    if probe["status"] in {"error", "not-applicable"}:
        return probe
    judged = [_apply(rule, probe["metrics"]) for rule in policy.rules if rule.probe == probe["id"]]
    failed = [verdict for verdict in judged if verdict.status == "fail"]
    accepted = {id(v): policy.accepts(probe["id"], v.metric, v.severity) for v in failed}
    findings = [_without(finding, "accepted") | {"severity": "none"} for finding in probe["findings"]]
    for verdict in failed:
        _mark(findings, verdict, accepted=accepted[id(verdict)] is not None)
    caveat = probe.get("caveat", "")
    result = _without(probe, "accepted") | {"findings": findings, "severity": "none"}
    if failed:
        entries = [{**a.plain(), "found": v.severity, "reason": v.reason} for v in failed if (a := accepted[id(v)])]
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
    excused = [p for p in probes if p.get("accepted")]
    said = "; accepted by the policy: " + ", ".join(map(_excused, excused)) if excused else ""
    if failed:
        names = ", ".join(f"{p['id']} ({p['severity']})" for p in _by_severity(failed)[:_NAMED])
        names += f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        why = f"{len(failed)} of {len(probes)} probes failed at severity {policy.fails_at} or above: {names}"
        return "fail", why + said
    status = {p["id"]: p["status"] for p in probes}
    reasons = [f"{p['id']} broke" for p in probes if p["status"] == "error"]
    reasons += [f"plugin {name} is broken" for name in broken]
    reasons += [f"{probe_id}: {status.get(probe_id, 'not run')}" for probe_id in policy.required
                if status.get(probe_id) not in {"pass", "fail", "error"}]  # fmt: skip
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


def _excused(probe: Mapping[str, Any]) -> str:
    worst = max(probe["accepted"], key=lambda entry: SEVERITIES.index(entry["found"]))
    return f"{probe['id']} ({worst['found']}, until {worst['expires']})"


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
    matching = [m for m in metrics if m["name"] == rule.metric and at_matches(rule.at, m["at"])]
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
        and at_matches(rule.at, metric["at"]) and _compare(rule, metric).status == "fail"
    }  # fmt: skip


def _without(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def _acceptance(entry: Mapping[str, Any]) -> str:
    return f"accepted by {entry['author']} until {entry['expires']}: {entry['justification']}"


def _mark(findings: list[dict[str, Any]], verdict: _Verdict, *, accepted: bool) -> None:
    """Give the severity to the finding that speaks of this metric, or to the first one."""
    about = [f for f in findings if f["metric"] and _same(f["metric"], verdict.metric)] or findings[:1]
    for finding in about:
        if accepted and finding["severity"] == "none":
            finding["accepted"] = True
        if not accepted:
            # what is accepted of a finding does not excuse the rest of it
            finding.pop("accepted", None)
        if SEVERITIES.index(verdict.severity) > SEVERITIES.index(finding["severity"]):
            finding["severity"] = verdict.severity


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["name"] == b["name"] and a["at"] == b["at"])


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
