"""A policy: thresholds on metrics, which checks invalidate which passes, and which failures are accepted.

A rule names a metric and up to four thresholds on its value, or on its loss from the clean value. The metric fails at a
severity if its whole interval lies on the wrong side of that threshold; it passes if its whole interval lies on the
right side of the mildest one; otherwise it is inconclusive. Without an interval it neither passes nor fails; with an
interval of one point or with too few images it does not pass. Judging needs no model, so it can be repeated with other
thresholds.

An accepted failure (``acceptance.py``) remains a failure; its severity is "none", so it does not count.
An invalidation makes passes inconclusive when a check fails: an attack that does not work proves nothing by failing.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from auditor.errors import BadInput
from auditor.files import digest
from auditor.findings.encoding import plain
from auditor.findings.finding import Severity
from auditor.findings.metric import Scalar
from auditor.findings.record import MetricRecord, PolicyRecord, ProbeRecord, RuleRecord
from auditor.findings.review import Review
from auditor.policy.acceptance import Acceptance, states
from auditor.policy.severity import GRADES, Grade, Knowledge, SeverityScale, check_order
from auditor.toml import Text, decode, nearest, read_toml

Side = Literal["at_least", "at_most", "at_most_lost"]
SIDES: tuple[Side, ...] = ("at_least", "at_most", "at_most_lost")
NAMED = 6
"""Number of failed probes named in the reason of the verdict; the table of probes lists all."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Up to four thresholds on one metric: ``at_least`` or ``at_most``, by severity."""

    probe: Text
    """Id of the probe."""
    metric: Text
    """Name of the metric, as in audit.json."""
    reason: Text
    """What a failure means; completes the sentence about the metric in the report."""
    source: Text
    """Where the thresholds come from."""
    at: Mapping[str, Scalar] = field(default_factory=dict)
    """Only metrics measured at this, for example ``{ norm = "linf", epsilon = 0.031372549 }``."""
    at_least: Mapping[Grade, float] = field(default_factory=dict)
    """The metric fails at a severity if its interval lies below this number."""
    at_most: Mapping[Grade, float] = field(default_factory=dict)
    """The metric fails at a severity if its interval lies above this number."""
    at_most_lost: Mapping[Grade, float] = field(default_factory=dict)
    """For an accuracy on perturbed images: the metric fails at a severity if more than this is lost from the accuracy
    on the same images without the perturbation."""
    knowledge: Knowledge | None = None
    """What it takes to cause the loss: nothing ("natural"), queries ("black-box") or gradients ("white-box"). A rule
    without thresholds takes those of ``[severity]`` for this knowledge."""
    only_fails: str = ""
    """Why meeting the rule proves nothing (surviving a weak attack); then a met rule is inconclusive, not a pass."""
    advisory: bool = False
    """Whether only a failure counts: an undecided rule then does not prevent a pass of the probe."""
    min_n: int = 20
    """The smallest n at which the rule can be met: intervals of fewer values are too narrow."""

    def __post_init__(self) -> None:
        """Raise ValueError unless there is one side, with thresholds in order of severity."""
        sides = [name for name in SIDES if getattr(self, name)]
        if len(sides) > 1 or not (sides or self.knowledge):
            raise ValueError(f"expected exactly one of {', '.join(SIDES)}, or knowledge; found {len(sides)}")
        ordered = [self.thresholds[grade] for grade in GRADES if grade in self.thresholds]
        if ordered != sorted(ordered, reverse=self.side == "at_least"):
            raise ValueError("a more severe threshold must be further from the goal than a milder one")
        if self.min_n < 1:
            raise ValueError(f"min_n is {self.min_n}; expected at least 1")

    @property
    def side(self) -> Side:
        """Which side of the thresholds is good."""
        return next((side for side in SIDES if getattr(self, side)), "at_most_lost")

    @property
    def thresholds(self) -> Mapping[Grade, float]:
        """The thresholds by severity."""
        thresholds: Mapping[Grade, float] = getattr(self, self.side)
        return thresholds

    @property
    def mildest(self) -> float:
        """The threshold that a pass must clear."""
        return next(self.thresholds[grade] for grade in GRADES if grade in self.thresholds)

    def smallest_n(self, *, share: bool) -> int:
        """Return the smallest n at which the rule can be met.

        Args:
            share: whether the metric is a fraction with Wilson's interval, whose best end is then n / (n + z^2).
        """
        limit = self.mildest if self.side == "at_least" else 1 - self.mildest
        z = NormalDist().inv_cdf(0.975)
        needed = math.ceil(z * z * limit / (1 - limit)) if share and 0 < limit < 1 else 0
        return max(self.min_n, needed)

    def on_scale(self, scales: Mapping[Knowledge, SeverityScale]) -> Rule:
        """Return the rule with the thresholds of its knowledge, if it has none.

        Raises:
            ValueError: if the policy has no scale for its knowledge.
        """
        if self.thresholds or self.knowledge is None:
            return self
        if self.knowledge not in scales:
            raise ValueError(f"rule on {self.probe}: no thresholds and no table [severity.{self.knowledge}]; add one")
        return replace(self, at_most_lost=scales[self.knowledge].at_most_lost)

    def record(self) -> RuleRecord:
        """Return the rule as recorded in audit.json."""
        return {
            "probe": self.probe,
            "metric": self.metric,
            "at": dict(self.at),
            "side": self.side,
            "thresholds": {str(grade): limit for grade, limit in self.thresholds.items()},
            "knowledge": self.knowledge,
            "advisory": self.advisory,
            "reason": self.reason,
            "source": self.source,
        }

    def number(self) -> tuple[Any, ...]:
        """Identify the metric that the rule judges: a rule replaces an inherited one that judges the same metric."""
        return self.probe, self.metric, dict(self.at), self.side == "at_most_lost"


@dataclass(frozen=True, kw_only=True)
class Invalidation:
    """When a check of the measurement fails, passes that depend on it become inconclusive."""

    when: Text
    """Id of the check."""
    probes: tuple[Text, ...]
    """Ids or globs of the probes whose passes become inconclusive."""
    reason: Text
    source: Text
    but: tuple[Text, ...] = field(default=(), metadata={"key": "except"})
    """Ids or globs of probes among them that do not depend on the check."""
    named_by: str = ""
    """A key of ``at``: only probes that a failed metric of the check names there become inconclusive."""
    metric: str = ""
    """Only if the check fails by this metric; by any of its metrics if empty."""
    severity: Grade = "low"
    """Only if the check fails at this severity or above."""
    failures: bool = False
    """Whether failures become inconclusive as well: the check shows that the numbers themselves mean nothing."""

    def __post_init__(self) -> None:
        """Raise ValueError if no probe is named."""
        if not self.probes:
            raise ValueError('probes is empty; expected a list of ids or globs such as ["attacks.*"]')


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """Probes with numbers that no rule judges, and why."""

    probes: tuple[Text, ...]
    """Ids or globs."""
    reason: Text


@dataclass(frozen=True, kw_only=True)
class PolicyFile:
    """What a policy file may contain."""

    title: str = ""
    """One line about the policy."""
    extends: str = ""
    """A known policy or a file, relative to this one. Rules about the same number are replaced."""
    required: tuple[Text, ...] | None = None
    """Probes without whose pass or failure the verdict is incomplete."""
    fails_at: Grade | None = None
    """The least severity of a failed probe that makes the verdict "fail"; "low" by default."""
    rule: tuple[Rule, ...] = ()
    """Thresholds, one table ``[[rule]]`` per metric."""
    review: Review | None = None
    """Owner, reviewer, intended use and signatures, for page one of the report."""
    severity: Mapping[Knowledge, SeverityScale] = field(default_factory=dict)
    """Severity of a loss of accuracy, one table ``[severity.KNOWLEDGE]`` each."""
    unjudged: tuple[Unjudged, ...] = ()
    """Why a probe has no rule, one table ``[[unjudged]]`` per reason."""
    void: tuple[Invalidation, ...] = ()
    """Invalidations, one table ``[[void]]`` per check."""
    accepted: tuple[Acceptance, ...] = ()
    """Accepted failures, one table ``[[accepted]]`` each."""

    def __post_init__(self) -> None:
        """Raise ValueError if a loss that is easier to cause is milder."""
        check_order(self.severity)

    def on_top_of(self, base: PolicyFile) -> PolicyFile:
        """Merge with the policy that this one extends."""
        replaced = [rule.number() for rule in self.rule]
        return PolicyFile(
            title=self.title or base.title,
            required=base.required if self.required is None else self.required,
            fails_at=self.fails_at or base.fails_at,
            rule=(*(rule for rule in base.rule if rule.number() not in replaced), *self.rule),
            review=self.review or base.review,
            severity={**base.severity, **self.severity},
            unjudged=(*self.unjudged, *base.unjudged),
            void=(*base.void, *self.void),
            accepted=(*base.accepted, *self.accepted),
        )


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an audit must meet."""

    name: str
    rules: Sequence[Rule]
    review: Review | None = None
    severity: Mapping[Knowledge, SeverityScale] = field(default_factory=dict)
    unjudged: Sequence[Unjudged] = ()
    invalidations: Sequence[Invalidation] = ()
    required: Sequence[str] = ()
    """Probes without whose pass or failure the verdict is incomplete."""
    fails_at: Grade = "low"
    """The least severity of a failed probe that makes the verdict "fail"."""
    accepted: Sequence[Acceptance] = ()
    today: dt.date = field(default_factory=dt.date.today)
    """The day of judging: acceptances expire."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """The whole policy as a JSON value, without the policies that it extends."""

    @property
    def sha256(self) -> str:
        """Digest of the document."""
        return digest(self.document)

    def accepts(self, probe_id: str, metric: MetricRecord, severity: Severity) -> Acceptance | None:
        """Return the acceptance that covers this failure, or None."""
        about = (each for each in self.accepted if each.probe == probe_id)
        return next((each for each in about if each.covers(metric, severity, self.today)), None)

    def why_unjudged(self, probe_id: str) -> str:
        """Return the stated reason why no rule judges a probe; a general one without a statement."""
        stated = (u.reason for u in self.unjudged if any(fnmatch.fnmatch(probe_id, each) for each in u.probes))
        return next(stated, "the policy sets no threshold for it")

    def described(self, probes: Sequence[ProbeRecord]) -> PolicyRecord:
        """The policy as recorded in audit.json, with the state of every acceptance after judging ``probes``."""
        accepted = states(self.accepted, probes, self.today)
        return {
            "name": self.name,
            "sha256": self.sha256,
            "judged": self.today.isoformat(),
            "accepted": accepted,
            "severity": {knowledge: plain(scale) for knowledge, scale in self.severity.items()},
            "rules": [rule.record() for rule in self.rules],
            "review": self.review.record() if self.review else None,
        }


def builtin() -> dict[str, Path]:
    """The policies in the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.toml"))}


def read_policy(
    name: str,
    probes: Collection[str] | None = None,
    today: dt.date | None = None,
    policies: Mapping[str, Path] | None = None,
) -> Policy:
    """Read the policy called ``name``, or the file ``name``.

    Args:
        name: a known policy or a path.
        probes: the known probe ids; a rule about any other is refused, so that a misspelt rule is not taken as met.
        today: the day of judging; the current one by default.
        policies: the known policies by name, those of plugins among them; the built-in ones by default.

    Raises:
        BadInput: for an unknown policy or a file that is not one.
    """
    known = builtin() if policies is None else policies
    path = _path(name, known)
    content = _content(path, known)
    named = [
        *(content.required or ()),
        *(rule.probe for rule in content.rule),
        *(void.when for void in content.void),
        *(each.probe for each in content.accepted),
    ]
    for probe_id in named:
        if probes is not None and probe_id not in probes:
            hint = nearest(probe_id, probes)
            raise BadInput(f"{path}: names the probe {probe_id!r}, which does not exist{hint} (see `auditor probes`)")
    return policy_of(content, path.stem, today or dt.date.today())


def policy_of(content: PolicyFile, name: str, today: dt.date) -> Policy:
    """Make the policy of a file's content, with all that it extends. Raises BadInput for a rule without its scale."""
    # what people state about the review changes no judgement
    judging = plain(replace(content, accepted=(), review=None), exact=True)
    return Policy(
        name=name,
        rules=_on_scales(content, name),
        review=content.review,
        severity=content.severity,
        unjudged=content.unjudged,
        invalidations=content.void,
        accepted=content.accepted,
        required=content.required or (),
        fails_at=content.fails_at or "low",
        today=today,
        document=judging | {"accepted": [each.plain() for each in content.accepted]},
    )


def _on_scales(content: PolicyFile, name: str) -> tuple[Rule, ...]:
    try:
        return tuple(rule.on_scale(content.severity) for rule in content.rule)
    except ValueError as error:
        raise BadInput(f"policy {name}: {error}") from None


def _path(name: str, known: Mapping[str, Path], folder: Path = Path()) -> Path:
    path = known.get(name) or folder / name
    if path.suffix != ".toml" or not path.is_file():
        hint = nearest(name, known)
        raise BadInput(f"--policy {name}: no such policy{hint}; expected one of {', '.join(known)} or a TOML file")
    return path


def _content(path: Path, known: Mapping[str, Path], extending: Sequence[Path] = ()) -> PolicyFile:
    """Read a policy file and the files that it extends."""
    content = decode(PolicyFile, read_toml(path), str(path))
    if not content.extends:
        return content
    if path in extending:
        raise BadInput(f"{path}: extends {content.extends!r}, which extends this file; remove one of the two")
    base = _path(content.extends, known, path.parent)
    return content.on_top_of(_content(base, known, [*extending, path]))
