"""Gaps in recall, false positive rate and selection rate between groups, class by class, for ``bias.groups``.

Equal opportunity is equal recall, equalised odds adds equal false positive rates, and demographic parity is equal
selection rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor import Finding, Records
from auditor.probes.gaps import Gap, Stratum, shares

if TYPE_CHECKING:
    import pandas as pd

    from auditor.probes.breakdown import Breakdown

MAX_CLASSES = 30
"""With more classes, the rates by group and class have too few images to compare."""


class Rate(NamedTuple):
    """A rate of a class that is compared between groups."""

    gap: str
    """Name of the metric; the recall of a class is the accuracy on its images."""
    title: str
    subject: str
    worse: int
    """As in ``Stratum``. No selection rate is worse than another; the gap is that of the lower one."""


RATES = {
    "recall": Rate("accuracy_gap", "Accuracy gap", "Accuracy on class {} (recall)", -1),
    "false positives": Rate("false_positive_rate_gap", "False positive rate gap", "False positive rate of class {}", 1),
    "selection": Rate("selection_rate_gap", "Selection rate gap", "Share of predictions of class {}", -1),
}


def rate_strata(records: Records, by_group: Mapping[str, pd.Series], minimum: int) -> list[Stratum]:
    """Return a stratum for each rate, grouping and class; groups of fewer than ``minimum`` images of it are left out.

    With two classes, one false positive rate is the other class's recall and one selection rate the complement of the
    other, so only the distinct rates are compared.
    """
    import numpy as np

    from auditor.plugins.bias._fairness import counts

    frame, k = records.frame, len(records.classes)
    if k > MAX_CLASSES:
        return []
    strata: list[Stratum] = []
    for name, values in by_group.items():
        groups, table = counts(values, frame["label"].to_numpy(), frame["prediction"].to_numpy(), k, 1)
        right, labelled = np.diagonal(table, axis1=1, axis2=2), table.sum(axis=2)
        predicted, total = table.sum(axis=1), table.sum(axis=(1, 2))[:, None] + np.zeros(k)
        parts = {
            "recall": (right, labelled),
            "false positives": (predicted - right, total - labelled),
            "selection": (predicted, total),
        }
        for rate, (hits, n) in parts.items():
            for c in range(k):
                if k == 2 and (rate == "false positives" or (rate == "selection" and c == 0)):
                    continue
                cells = {group: (int(hits[i, c]), int(n[i, c])) for i, group in enumerate(groups) if n[i, c] >= minimum}
                strata.append(_stratum(rate, name, records.class_name(c), cells))
    return strata


def _stratum(rate: str, grouping: str, class_name: str, cells: Mapping[str, tuple[int, int]]) -> Stratum:
    return Stratum(
        gap=RATES[rate].gap,
        cells=cells,
        statistic=shares(),
        at={"group": grouping, "class": class_name},
        family=(rate, grouping),
        worse=RATES[rate].worse,
    )


def rate_findings(probe: Breakdown, gaps: Sequence[Gap]) -> list[Finding]:
    """Return a finding for each significant gap of a rate."""
    found: list[Finding] = []
    for gap in gaps:
        rate = RATES[gap.stratum.family[0]]
        found += probe.gap_findings([gap], rate.title, rate.subject.format(gap.metric.at["class"]))
    return found


def listed(gaps: Sequence[Gap]) -> list[Gap]:
    """Return the significant gaps, and of each family the one with the widest interval.

    The widest interval decides whether a threshold can be met, so a policy needs it; the others say no more.
    """
    widest: dict[tuple[str, ...], Gap] = {}
    for gap in gaps:
        held = widest.get(gap.stratum.family)
        if held is None or (gap.metric.high or 0.0) > (held.metric.high or 0.0):
            widest[gap.stratum.family] = gap
    return [gap for gap in gaps if gap.significant or gap is widest[gap.stratum.family]]
