"""Break results down by group: groups from the data's columns, in bands and crossed, and the gap between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

from auditor.findings.metric import Metric

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Counts = NDArray[np.float64]


AGES = (18, 30, 45, 60)
"""Where ages in years are cut: up to 17, 18 to 29, 30 to 44, 45 to 59, 60 and over."""

_NUMBERS = 12
"""A column of more different numbers than this is continuous and is cut."""

_CROSSED = 12
"""Columns of at most so many values are crossed with each other."""


def groupings(frame: pd.DataFrame, *, cross: bool = True) -> dict[str, pd.Series]:
    """The columns ``group:*`` of records as texts: numbers in bands, columns of few values also crossed in pairs."""
    found = {
        str(name).removeprefix("group:"): _banded(str(name), frame[name])
        for name in frame.columns
        if str(name).startswith("group:")
    }
    few = [name for name, values in found.items() if 2 <= values.nunique() <= _CROSSED]
    for one, other in combinations(few, 2) if cross else ():
        found[f"{one} x {other}"] = found[one] + ", " + found[other]
    return found


def _banded(name: str, values: pd.Series) -> pd.Series:
    """Ages in bands, other numbers at their quartiles (stated in the band's name), everything else as it is."""
    import numpy as np
    import pandas as pd

    text = values.astype(str)
    numbers = pd.to_numeric(text.where(text != ""), errors="coerce")
    continuous = numbers.nunique() > _NUMBERS and bool((numbers.notna() | (text == "")).all())
    if not continuous:
        return text
    age = "age" in name.lower().replace("image", "")
    cuts = np.array(AGES) if age else np.unique(np.quantile(numbers.dropna(), [0.25, 0.5, 0.75]))
    edges = [f"{cut:.4g}" for cut in cuts]
    names = [f"below {edges[0]}", *(f"{a} to below {b}" for a, b in pairwise(edges))]
    names.append(f"{edges[-1]} and over")
    bands = [names[i] for i in np.searchsorted(cuts, numbers.fillna(0), side="right")]
    return pd.Series(bands, index=values.index).where(numbers.notna(), "")


@dataclass(frozen=True)
class Comparison:
    """Accuracy (or another share) of groups, and the gap between the best and the worst."""

    gap: Metric
    best: str
    worst: str
    p_value: float
    groups: Mapping[str, tuple[dict[str, Any], int]]
    """The share with its interval, and n, of every group."""
    small: Mapping[str, int]
    """Groups that are too small to compare."""


def compare(
    grouping: str, correct: pd.Series, values: pd.Series, minimum: int, *, metric: str = "accuracy_gap"
) -> Comparison:
    """The gap between the groups with the largest and the smallest share of True in ``correct``.

    The pair was picked for being extreme, so its interval is Newcombe's at a level shared out over all pairs
    (Bonferroni). P-value: chi-square test of equal shares.
    """
    from fairlearn.metrics import MetricFrame, count
    from scipy.stats import chi2_contingency
    from sklearn.metrics import accuracy_score

    from auditor import statistics

    table = MetricFrame(
        metrics={"accuracy": accuracy_score, "n": count},
        y_true=[True] * len(correct), y_pred=correct.astype(bool).tolist(), sensitive_features=values.rename("value"),
    ).by_group  # fmt: skip
    sizes = {str(value): int(n) for value, n in table["n"].items()}
    hits = {str(value): round(float(a) * sizes[str(value)]) for value, a in table["accuracy"].items()}
    groups = {value: (statistics.wilson(hits[value], n)._asdict(), n) for value, n in sizes.items()}
    large = [value for value, n in sizes.items() if n >= minimum]
    small = {value: n for value, n in sizes.items() if n < minimum}
    at = {"group": grouping}
    if len(large) < 2:
        gap = Metric(name=metric, value=None, n=sum(sizes[v] for v in large), at=at)
        return Comparison(gap, "", "", 1.0, groups, small)
    share = {value: hits[value] / sizes[value] for value in large}
    best, worst = max(share, key=lambda v: share[v]), min(share, key=lambda v: share[v])
    pairs = len(large) * (len(large) - 1) / 2
    value, low, high = statistics.newcombe(
        (hits[best], hits[worst]), (sizes[best], sizes[worst]), confidence=1 - 0.05 / pairs
    )  # fmt: skip
    gap = Metric(
        name=metric, value=value, low=None if low is None else max(0.0, low), high=high,
        n=sum(sizes[v] for v in large), at=at,
    )  # fmt: skip
    counts = [[hits[v] for v in large], [sizes[v] - hits[v] for v in large]]
    certain = not (any(counts[0]) and any(counts[1]))
    p_value = 1.0 if certain else float(chi2_contingency(counts).pvalue)
    return Comparison(gap, best, worst, p_value, groups, small)
