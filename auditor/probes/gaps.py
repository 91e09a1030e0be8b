"""Gaps between groups, each with its own interval and test, corrected for all gaps that a probe looks at.

Every group is compared with every better group of its stratum. Of these pairs, the gap of a group is the one whose
interval has the highest lower end; the correction counts all pairs, so this choice is free. Groupings (families) share
the level equally, so that a crossing with many cells does not weaken the comparison of two large groups.

- Interval: the squared distances to the ends of the groups' own intervals are added (Newcombe 1998, method 10, for
  shares; Zou and Donner 2008, Stat. Med. 27, 1693-1702, for others), at Bonferroni's level: all intervals hold jointly.
- Test: one-sided, exact for shares, times the number of better groups it may have had; Holm's method over all groups.

If the data states units, both are over units (``gap_statistics.py``). Units with images in both groups count as
independent, which is conservative if their images resemble each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from auditor.findings.formatting import counted, measured, p_value, points, sample_size
from auditor.findings.metric import Metric, Scalar
from auditor.probes.gap_statistics import Statistic

ALPHA = 0.05
"""Probability of reporting any gap of a probe if there is none."""


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Groups that are compared with each other."""

    gap: str
    """Name of the metric."""
    cells: Mapping[str, Any]
    """The data of every group that is large enough."""
    statistic: Statistic
    at: Mapping[str, Scalar] = field(default_factory=dict)
    """Where the gap is measured, without the groups: ``{"group": "sex"}``."""
    key: str = "value"
    """Key of ``at`` for the group."""
    family: tuple[str, ...] = ()
    """Strata of one family share a part of the level."""
    worse: int = -1
    """-1 if the group with the lower statistic is worse, 1 if the one with the higher is."""
    unit: str = "fraction"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The gap between a group and a better one."""

    stratum: Stratum
    group: str
    against: str
    """The better group."""
    metric: Metric
    """The difference, at least 0; its interval includes 0 unless the test is significant."""
    p_value: float
    """Adjusted for all groups that were compared."""
    tests: int = 1
    """Number of groups that were compared."""

    @property
    def significant(self) -> bool:
        """Whether interval and test both exclude a gap of zero."""
        return self.p_value < ALPHA and bool(self.metric.low)

    @property
    def test(self) -> str:
        """The test with its p-value: ``p < 0.001 (Fisher, Holm over 12 comparisons)``."""
        return f"{p_value(self.p_value)} ({self.stratum.statistic.test}, Holm over {counted(self.tests, 'comparison')})"

    def estimate(self, group: str) -> Metric:
        """Return the statistic of one of the two groups with its own 95 % interval."""
        stratum = self.stratum
        return stratum.statistic.metric(stratum.gap, stratum.cells[group], unit=stratum.unit)

    def statement(self, subject: str, names: Mapping[str, str] | None = None) -> str:
        """Return the sentence that names the gap, both groups, their values and n, and the test.

        ``names`` are the names of the groups in the sentence, by default grouping and value.
        """
        grouping = self.stratum.at.get("group", self.stratum.key)
        name, against = ((names or {}).get(group, f"{grouping} {group}") for group in (self.group, self.against))
        one, other = self.estimate(self.group), self.estimate(self.against)
        gap = points(self.metric) if self.stratum.unit == "fraction" else measured(self.metric)
        return (
            f"{subject} is {gap} {'lower' if self.stratum.worse < 0 else 'higher'} for {name} than for"
            f" {against}: {measured(one)} (n = {sample_size(one)}) against {measured(other)}"
            f" (n = {sample_size(other)})."
            f" Corrected {self.test}."
        )


def find_gaps(strata: Sequence[Stratum]) -> list[Gap]:
    """Return the gap of every group that has a better or equal one, clearest first; corrected over all strata."""
    from auditor import statistics

    strata = [stratum for stratum in strata if len(stratum.cells) > 1]
    families = dict.fromkeys(stratum.family for stratum in strata)
    groups = {name: sum(len(s.cells) for s in strata if s.family == name) for name in families}
    pairs = {name: sum(len(s.cells) * (len(s.cells) - 1) // 2 for s in strata if s.family == name) for name in families}
    found: list[Gap] = []
    weights: list[float] = []
    for stratum in strata:
        gaps = _of_stratum(stratum, 1 - ALPHA / len(families) / pairs[stratum.family])
        found += gaps
        weights += [1 / groups[stratum.family]] * len(gaps)
    # a group without a better one is a test that cannot reject
    rest = len(families) - sum(weights)
    adjusted = statistics.holm([*(gap.p_value for gap in found), 1.0], [*weights, max(rest, 1e-12)])
    tests = sum(groups.values())
    gaps = [_agreeing(replace(gap, p_value=p, tests=tests)) for gap, p in zip(found, adjusted, strict=False)]
    return sorted(gaps, key=clearness, reverse=True)


def clearness(gap: Gap) -> tuple[float, float]:
    """Sort key, ascending: the lower end, then the gap itself."""
    return gap.metric.low or 0.0, gap.metric.value or 0.0


def _of_stratum(stratum: Stratum, confidence: float) -> list[Gap]:
    """Return the clearest gap of each group, with its p-value times the number of the other groups."""
    import numpy as np

    names = list(stratum.cells)
    cells = list(stratum.cells.values())
    ends = [[np.nan if end is None else end for end in stratum.statistic.interval(c, confidence)] for c in cells]
    value, low, high = np.array(ends).T
    if stratum.worse > 0:
        value, low, high = -value, -high, -low
    sizes = np.array([stratum.statistic.size(cell) for cell in cells])
    gaps = []
    for i, name in enumerate(names):
        with np.errstate(invalid="ignore"):
            difference = value - value[i]
            lows = np.maximum(0.0, difference - np.hypot(value - low, high[i] - value[i]))
            highs = difference + np.hypot(high - value, value[i] - low[i])
        better = np.isfinite(difference) & (difference >= 0)
        better[i] = False
        if not better.any():
            continue
        candidates = np.flatnonzero(better)
        order = np.lexsort((sizes[candidates], difference[candidates], np.nan_to_num(lows[candidates])))
        j = int(candidates[order[-1]])
        lower, higher = (cells[i], cells[j]) if stratum.worse < 0 else (cells[j], cells[i])
        limit = 1.0 if stratum.unit == "fraction" else np.inf
        metric = Metric(
            name=stratum.gap,
            value=float(difference[j]),
            low=float(np.nan_to_num(lows[j])),
            high=float(min(limit, np.nan_to_num(highs[j], nan=np.inf))),
            n=int(sizes[i] + sizes[j]),
            unit=stratum.unit,
            at={**stratum.at, stratum.key: name, "against": names[j]},
            units=stratum.statistic.count_units(cells[i], cells[j]),
        )
        p = min(1.0, (len(names) - 1) * stratum.statistic.p_lower(lower, higher))
        gaps.append(Gap(stratum=stratum, group=name, against=names[j], metric=metric, p_value=p))
    return gaps


def _agreeing(gap: Gap) -> Gap:
    """Extend the interval to 0 if the test is not significant: the policy judges the interval, the text the test."""
    return gap if gap.p_value < ALPHA else replace(gap, metric=replace(gap.metric, low=0.0))
