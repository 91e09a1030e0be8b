"""Gaps in recall, false positive rate and selection rate between groups, class by class, for ``bias.groups``.

Equal opportunity is equal recall, equalised odds adds equal false positive rates, and demographic parity is equal
selection rates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor import Finding, Records
from auditor.probes.gap_statistics import Statistic, share_cell, shares
from auditor.probes.gaps import Gap, Stratum
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.probes.breakdown import Breakdown
    from auditor.probes.gap_statistics import ShareCell

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
    """Return a stratum for each rate, grouping and class.

    Groups of fewer than ``minimum`` images of it, or units if the data states them, are left out.

    With two classes, one false positive rate is the other class's recall and one selection rate the complement of the
    other, so only the distinct rates are compared.
    """
    k, units = len(records.classes), unit_codes(records.frame)
    if k > MAX_CLASSES:
        return []
    strata: list[Stratum] = []
    for name, values in by_group.items():
        cells, statistic = _cells(records, values, units), shares(over_units=units is not None)
        for rate in RATES:
            for c in range(k):
                if k == 2 and (rate == "false positives" or (rate == "selection" and c == 0)):
                    continue
                large = {g: cell for g, cell in cells[rate, c].items() if statistic.sample_size(cell) >= minimum}
                strata.append(_stratum(rate, name, records.class_name(c), large, statistic))
    return strata


def _cells(
    records: Records, values: pd.Series, units: NDArray[np.int64] | None
) -> dict[tuple[str, int], dict[str, ShareCell]]:
    """Return the hits and n of each group in ``values`` (n,), by rate and class."""
    import numpy as np

    from auditor import statistics

    frame, k = records.frame, len(records.classes)
    cells: dict[tuple[str, int], dict[str, ShareCell]] = defaultdict(dict)
    for group in sorted(set(values)):
        mask = (values == group).to_numpy()
        labels, predictions = (frame[column].to_numpy()[mask] for column in ("label", "prediction"))
        inside = statistics.keep(units, mask)
        for c in range(k):
            labelled, predicted = labels == c, predictions == c
            among = {"recall": labelled, "false positives": ~labelled, "selection": np.ones(len(labels), dtype=bool)}
            for rate, part in among.items():
                cells[rate, c][str(group)] = share_cell(predicted[part], statistics.keep(inside, part))
    return cells


def _stratum(
    rate: str, grouping: str, class_name: str, cells: Mapping[str, ShareCell], statistic: Statistic
) -> Stratum:
    return Stratum(
        gap=RATES[rate].gap,
        cells=cells,
        statistic=statistic,
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
