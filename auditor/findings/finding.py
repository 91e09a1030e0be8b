"""Findings and conclusions: the results of a probe.

A finding is data. Evidence is a closed set of kinds (curve, table, image grid, heat map, scatter, text), so every
renderer supports all of them and no plugin contains HTML. ``plain`` encodes them for audit.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from auditor.findings.evidence import Evidence
from auditor.findings.metric import Metric

Area = Literal["performance", "attacks", "corruptions", "metrics", "bias", "explanations", "sanity"]
AREAS: tuple[Area, ...] = ("performance", "attacks", "corruptions", "metrics", "bias", "explanations", "sanity")

Status = Literal["pass", "fail", "inconclusive", "informative", "not-applicable", "error"]
"""Outcome of a probe. Only ``pass`` and ``fail`` are verdicts; no other outcome counts as passed."""

Severity = Literal["none", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("none", "low", "medium", "high", "critical")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim with its number and its evidence."""

    id: str
    """Unique within the audit and stable between runs: ``<probe id>/<noun>``."""
    title: str
    statement: str
    """One sentence with the number, its interval and n."""
    severity: Severity = "none"
    """Set by the policy, from the interval of ``metric``."""
    metric: Metric | None = None
    n: int | None = None
    """Number of images (or of what the statement counts); required for a finding without a metric."""
    evidence: Sequence[Evidence] = ()


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """The attacker's goal, knowledge and budget (Carlini et al. 2019, arXiv:1902.06705, section 2.2)."""

    goal: str
    """For example "untargeted misclassification"."""
    knowledge: Literal["white-box", "black-box", "none"]
    norm: str
    """For example "linf", "l2", "none"."""
    budget: str
    """In words, in pixel units: "epsilon 0 to 32/255", "a block of 25 % of the side"."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """Metrics and findings that a probe derives from its records; the first metric is the key metric."""

    metrics: Sequence[Metric] = ()
    findings: Sequence[Finding] = ()
    inconclusive: str = ""
    """Why no conclusion is possible (a failed attack, too few images); empty if one is."""
    warnings: Sequence[str] = ()
    """Sentences for page one: assumptions of the audit that the records contradict."""
