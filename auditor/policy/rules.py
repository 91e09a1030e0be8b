"""Judging: thresholds on the ends of intervals, apart from measuring, so that it can be done again without the model.

A rule names a metric and up to four thresholds. The number fails at a severity when its whole interval lies on the
wrong side of that threshold; it passes when its whole interval lies on the right side of the mildest one; in between
nothing can be said, and that is what the report says.

An accepted failure (``acceptance.py``) stays a failure; its severity is "none", so that it does not count.
A void says which passes a failed check of the measurement takes back: what a broken attack did not find is no pass.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from auditor.errors import BadInput
from auditor.files import digest
from auditor.findings.finding import Severity
from auditor.findings.record import MetricRecord, PolicyRecord, ProbeRecord
from auditor.policy.acceptance import Acceptance, read_acceptance, states
from auditor.toml import read_toml, refuse_unknown

GRADES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
NAMED = 6
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
class Invalidation:
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
    invalidations: Sequence[Invalidation] = ()
    required: Sequence[str] = ()
    """Probes without whose pass the verdict cannot be pass."""
    fails_at: Severity = "low"
    """The least severity of a failed probe at which the verdict is fail."""
    accepted: Sequence[Acceptance] = ()
    today: dt.date = field(default_factory=dt.date.today)
    """The day on which is judged: accepted findings expire."""
    sha256: str = field(default="")

    def accepts(self, probe_id: str, metric: MetricRecord, severity: Severity) -> Acceptance | None:
        """The acceptance that covers this failure, if there is one."""
        about = (each for each in self.accepted if each.probe == probe_id)
        return next((each for each in about if each.covers(metric, severity, self.today)), None)

    def described(self, probes: Sequence[ProbeRecord]) -> PolicyRecord:
        """The policy as it stands in audit.json beside the probes that it has judged."""
        accepted = states(self.accepted, probes, self.today)
        return {"name": self.name, "sha256": self.sha256, "judged": self.today.isoformat(), "accepted": accepted}


def builtin() -> dict[str, Path]:
    """The policies in the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def read_policy(name: str, probes: Collection[str] | None = None, today: dt.date | None = None) -> Policy:
    """The built-in policy called ``name``, or the one in the file ``name``, for judging ``today``.

    Raises BadInput, also for a rule on a probe that is not among ``probes``: a misspelt rule must not look like one
    that is met.
    """
    path = _path(name)
    content = _content(path)
    fails_at = content.get("fails_at", "low")
    if fails_at not in GRADES:
        raise BadInput(f"{path}: fails_at is {fails_at!r}; expected one of {', '.join(GRADES)}")
    required = content.get("required", [])
    if not (isinstance(required, list) and all(isinstance(name, str) for name in required)):
        raise BadInput(f"{path}: required is {required!r}; expected a list of probe ids")
    rules = [_rule(entry, f"{path}: rule {i + 1}") for i, entry in enumerate(content["rule"])]
    invalidations = [_void(entry, f"{path}: void {i + 1}") for i, entry in enumerate(content["void"])]
    accepted = [read_acceptance(entry, f"{path}: accepted {i + 1}") for i, entry in enumerate(content["accepted"])]
    named = [
        *(rule.probe for rule in rules),
        *(void.when for void in invalidations),
        *(each.probe for each in accepted),
    ]
    for probe_id in [*required, *named]:
        if probes is not None and probe_id not in probes:
            raise BadInput(f"{path}: names the probe {probe_id!r}, but there is none (see `auditor probes`)")
    return Policy(
        name=path.stem,
        rules=rules,
        invalidations=invalidations,
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


def _rule(entry: Mapping[str, Any], where: str) -> Rule:
    refuse_unknown(entry, _RULE_KEYS, where)
    for key in ("probe", "metric", "reason", "source"):
        if not isinstance(entry.get(key), str):
            raise BadInput(f"{where}: has no {key}; a rule says probe, metric, at_least or at_most, reason and source")
    sides = [side for side in ("at_least", "at_most") if side in entry]
    if len(sides) != 1:
        raise BadInput(f"{where}: expected exactly one of at_least and at_most, found {len(sides)}")
    thresholds = entry[sides[0]]
    if not isinstance(thresholds, dict) or not thresholds or set(thresholds) - set(GRADES):
        raise BadInput(f"{where}: {sides[0]} must map some of {', '.join(GRADES)} to numbers")
    if not isinstance(entry.get("at", {}), dict):
        raise BadInput(f"{where}: at is {entry['at']!r}; expected a table such as {{ norm = 'linf' }}")
    if not isinstance(entry.get("only_fails", ""), str):
        raise BadInput(f"{where}: only_fails is {entry['only_fails']!r}; expected a text, the reason")
    ordered = [thresholds[grade] for grade in GRADES if grade in thresholds]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in ordered):
        raise BadInput(f"{where}: {sides[0]} must map severities to numbers")
    if ordered != sorted(ordered, reverse=sides[0] == "at_least"):
        raise BadInput(f"{where}: a more severe threshold must be further from the goal than a milder one")
    return Rule(
        probe=entry["probe"], metric=entry["metric"], at=entry.get("at", {}),
        side=cast(Literal["at_least", "at_most"], sides[0]), thresholds=thresholds,
        reason=entry["reason"], source=entry["source"], only_fails=entry.get("only_fails", ""),
    )  # fmt: skip


def _void(entry: Mapping[str, Any], where: str) -> Invalidation:
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
    return Invalidation(
        when=entry["when"], probes=probes or (), but=but, named_by=entry.get("named_by", ""), reason=entry["reason"],
        source=entry["source"],
    )  # fmt: skip
