"""Compare groups of images: a statistic for each group, a test over all groups, tables and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from auditor.findings.evidence import Axis, Cell, Curve, Point, Series, Table
from auditor.findings.formatting import percent
from auditor.findings.metric import Metric
from auditor.probes.base import Probe, Records

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ALPHA = 0.05
"""Level of significance of every test between groups."""

_SMALL_NAMED = 10
"""Groups named in the statement as too small to compare."""

Verdict = Literal["groups differ", "not significant", "undecided"]
Format = Literal["text", "number", "percent", "n/255", "count"]


def significance(p_value: float) -> Verdict:
    """Return the result of a test at ``ALPHA``."""
    return "groups differ" if p_value < ALPHA else "not significant"


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """A statistic of each group, the two extreme groups and a test of equality over all compared groups."""

    grouping: str
    groups: Mapping[str, Metric]
    """The statistic of each group with its interval and n."""
    highest: str = ""
    lowest: str = ""
    """Compared groups with the extreme values; empty if fewer than two groups are large enough."""
    p_value: float = 1.0

    @property
    def verdict(self) -> Verdict:
        """The result of the test; "undecided" without two groups to compare."""
        return significance(self.p_value) if self.highest else "undecided"


@dataclass(frozen=True, kw_only=True)
class Comparison(Extremes):
    """Extremes with the gap between them."""

    gap: Metric
    """Difference of the extreme groups; value None if fewer than two groups are large enough."""
    small: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the groups that are too small to compare."""


E = TypeVar("E", bound=Extremes)


def holm_adjusted(comparisons: Sequence[E]) -> list[E]:
    """Return the comparisons with p-values adjusted for their number (Holm 1979)."""
    from auditor import statistics

    adjusted = statistics.holm([comparison.p_value for comparison in comparisons])
    return [replace(comparison, p_value=p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def compare_shares(
    grouping: str, hits: pd.Series, values: pd.Series, minimum: int, *, metric: str, gap: str
) -> Comparison:
    """Compare the share of True in ``hits`` (n,) between the groups in ``values`` (n,).

    Groups have Wilson's interval. The extreme pair was selected, so the interval of the gap is Newcombe's with a
    Bonferroni correction over all pairs. The test is chi-square. ``metric`` and ``gap`` name the metrics.
    """
    from fairlearn.metrics import MetricFrame, count
    from sklearn.metrics import accuracy_score

    table = MetricFrame(
        metrics={"share": accuracy_score, "n": count},
        y_true=[True] * len(hits),
        y_pred=hits.astype(bool).tolist(),
        sensitive_features=values.rename("value"),
    ).by_group
    sizes = {str(value): int(n) for value, n in table["n"].items()}
    counts = {
        str(value): (round(float(share) * sizes[str(value)]), sizes[str(value)])
        for value, share in table["share"].items()
    }
    return compare_counts(grouping, counts, minimum, metric=metric, gap=gap)


def compare_counts(
    grouping: str, counts: Mapping[str, tuple[int, int]], minimum: int, *, metric: str, gap: str
) -> Comparison:
    """Compare shares as ``compare_shares`` does; ``counts`` holds (hits, n) of each group."""
    from auditor import statistics

    groups = {
        value: Metric(name=metric, **statistics.wilson(hits, n)._asdict(), n=n, at={"group": grouping, "value": value})
        for value, (hits, n) in counts.items()
    }
    small = {value: n for value, (_, n) in counts.items() if n < minimum}
    large = {value: count for value, count in counts.items() if value not in small}
    n_compared = sum(n for _, n in large.values())
    missing = Metric(name=gap, value=None, n=n_compared, at={"group": grouping})
    if len(large) < 2:
        return Comparison(grouping=grouping, groups=groups, gap=missing, small=small)
    shares = {value: hits / n for value, (hits, n) in large.items()}
    best, worst = max(shares, key=lambda v: shares[v]), min(shares, key=lambda v: shares[v])
    value, low, high = statistics.newcombe(
        (large[best][0], large[worst][0]), (large[best][1], large[worst][1]), confidence=1 - pairwise_alpha(len(large))
    )
    return Comparison(
        grouping=grouping,
        groups=groups,
        highest=best,
        lowest=worst,
        p_value=_chi_square(large.values()),
        gap=replace(missing, value=value, low=None if low is None else max(0.0, low), high=high),
        small=small,
    )


def pairwise_alpha(groups: int) -> float:
    """Return the level of one pair such that ``ALPHA`` holds over all pairs of groups (Bonferroni)."""
    return ALPHA / (groups * (groups - 1) / 2)


def _chi_square(counts: Iterable[tuple[int, int]]) -> float:
    """P-value of equal shares; 1 if all shares are 0 or all are 1."""
    from scipy.stats import chi2_contingency

    hits, misses = zip(*[(hits, n - hits) for hits, n in counts], strict=True)
    return float(chi2_contingency([hits, misses]).pvalue) if any(hits) and any(misses) else 1.0


def kruskal_wallis(samples: Sequence[NDArray[Any]]) -> float:
    """P-value of the Kruskal-Wallis test; 1 if all values are equal. Infinite values rank above all others."""
    import numpy as np
    from scipy.stats import kruskal

    # ranks, because SciPy does not accept infinite values
    ranks = np.unique(np.concatenate(samples), return_inverse=True)[1]
    if not ranks.any():
        return 1.0
    return float(kruskal(*np.split(ranks, np.cumsum([len(sample) for sample in samples])[:-1])).pvalue)


class Column(NamedTuple):
    """An additional column of a table of groups."""

    name: str
    cells: Mapping[str, Cell]
    """The cell of each group; missing groups get a dash."""
    format: Format = "percent"


@dataclass(frozen=True, kw_only=True)
class Breakdown(Probe):
    """Base of the bias probes: compare a statistic between groups of at least ``minimum`` images."""

    rows_shown: ClassVar[int] = 50
    """Groups in a table."""

    minimum: int = 20
    """Groups with fewer images are listed but not compared."""

    def table(
        self,
        comparison: Extremes,
        *,
        title: str,
        statistic: str,
        columns: Sequence[Column] = (),
        descending: bool = False,
        caption: str = "",
    ) -> Table:
        """Return a table of the groups ordered by the statistic."""
        ordered = self._ordered(comparison, descending=descending)
        rows: list[list[Cell]] = [
            [
                value,
                metric.cell(),
                *(column.cells.get(value) for column in columns),
                metric.n,
                "yes" if metric.n >= self.minimum else "too small",
            ]
            for value, metric in ordered[: self.rows_shown]
        ]
        if len(ordered) > self.rows_shown:
            caption = f"{caption} First {self.rows_shown} of {len(ordered)} groups.".strip()
        return Table(
            title=title,
            columns=[comparison.grouping, statistic, *(column.name for column in columns), "n", "compared"],
            formats=["text", "percent", *(column.format for column in columns), "count", "text"],
            rows=rows,
            caption=caption,
        )

    def curve(self, comparison: Extremes, *, title: str, statistic: str) -> Curve:
        """Return the statistic of each group with its interval, by rank."""
        ordered = self._ordered(comparison)[: self.rows_shown]
        ranked = [
            Point(x=float(rank), y=metric.value, low=metric.low, high=metric.high, n=metric.n)
            for rank, (_, metric) in enumerate(ordered, start=1)
        ]
        return Curve(
            title=title,
            x=Axis(label="rank in the table above"),
            y=Axis(label=statistic, format="percent", unit="fraction"),
            series=[Series(name=statistic, points=ranked)],
        )

    @staticmethod
    def _ordered(comparison: Extremes, *, descending: bool = False) -> list[tuple[str, Metric]]:
        sign = -1 if descending else 1
        return sorted(comparison.groups.items(), key=lambda item: sign * (item[1].value or 0.0))

    def undecided(self, records: Records, comparison: Comparison) -> str:
        """State that too few groups are large enough."""
        return (
            f"Undecided: fewer than two values of {comparison.grouping} have at least {self.minimum}"
            f" {records.kind} (n = {comparison.gap.n})."
        )

    @staticmethod
    def extremes_text(comparison: Extremes) -> str:
        """Name the extreme groups with their shares and sizes."""
        lowest, highest = (
            f"{value} ({percent(comparison.groups[value])}, n = {comparison.groups[value].n})"
            for value in (comparison.lowest, comparison.highest)
        )
        return f"Lowest: {lowest}; highest: {highest}."

    @staticmethod
    def small_text(comparison: Comparison) -> str:
        """Name the groups that are too small to compare, with their sizes; empty if there are none."""
        if not comparison.small:
            return ""
        named = [f"{value} ({n})" for value, n in comparison.small.items()]
        if len(named) > _SMALL_NAMED:
            named[_SMALL_NAMED:] = [f"and {len(named) - _SMALL_NAMED} more"]
        return f"Too small to compare: {', '.join(named)}."
