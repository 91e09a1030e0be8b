"""Compare groups of images: a statistic for each group, a test over all groups, tables and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from auditor.findings import formatting
from auditor.findings.evidence import Axis, Cell, Curve, Point, Series, Table
from auditor.findings.finding import Finding
from auditor.findings.formatting import counted, percent, place, probability
from auditor.findings.metric import Metric, Scalar
from auditor.probes.base import Probe, Records
from auditor.probes.gap_statistics import share_cell, shares
from auditor.probes.gaps import ALPHA, Gap, Stratum, find_gaps

if TYPE_CHECKING:
    import pandas as pd

    from auditor.probes.gap_statistics import ShareCell
    from auditor.statistics import Units

_SMALL_NAMED = 10
"""Groups named in the statement as too small to compare."""

Verdict = Literal["groups differ", "not significant", "undecided"]
Format = Literal["text", "number", "percent", "n/255", "count"]


def significance(p_value: float) -> Verdict:
    """Return the result of a test at ``ALPHA``."""
    return "groups differ" if p_value < ALPHA else "not significant"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A statistic of each group of one grouping, and the gaps between the groups that are large enough."""

    grouping: str
    groups: Mapping[str, Metric]
    """The statistic of each group with its interval and n."""
    stratum: Stratum
    """The groups that are large enough."""
    small: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the groups that are too small to compare, in units if the data states them."""
    gaps: Sequence[Gap] = ()
    """The gap of each group that has a better one, clearest first; see ``find_gaps``."""

    @property
    def gap(self) -> Metric:
        """The clearest gap; value None if fewer than two groups are large enough."""
        if self.gaps:
            return self.gaps[0].metric
        return self.compared

    @property
    def compared(self) -> Metric:
        """The number of images, and of units, in all compared groups; without a value."""
        stratum, cells = self.stratum, self.stratum.cells.values()
        n, units = sum(stratum.statistic.size(cell) for cell in cells), stratum.statistic.count_units(*cells)
        return Metric(name=stratum.gap, value=None, n=n, unit=stratum.unit, at=stratum.at, units=units)

    @property
    def significant(self) -> list[Gap]:
        """The significant gaps."""
        return [gap for gap in self.gaps if gap.significant]

    @property
    def p_value(self) -> float:
        """The smallest adjusted p-value."""
        return min((gap.p_value for gap in self.gaps), default=1.0)

    @property
    def verdict(self) -> Verdict:
        """Whether any gap is significant; "undecided" without two groups to compare."""
        if not self.gaps:
            return "undecided"
        return "groups differ" if self.significant else "not significant"

    @property
    def lowest(self) -> str:
        """The compared group with the lowest statistic; empty if fewer than two groups are compared."""
        return self._extreme(min)

    @property
    def highest(self) -> str:
        """The compared group with the highest statistic; empty if fewer than two groups are compared."""
        return self._extreme(max)

    def _extreme(self, which: Callable[..., str]) -> str:
        compared = [value for value in self.stratum.cells if self.groups[value].value is not None]
        return which(compared, key=lambda value: self.groups[value].value) if self.gaps else ""


def sample_size(metric: Metric) -> int:
    """Return the number of independent observations of a metric: of units if the data states them, else of images."""
    return metric.n if metric.units is None else metric.units


def compare(comparisons: Sequence[Comparison], strata: Sequence[Stratum] = ()) -> tuple[list[Comparison], list[Gap]]:
    """Find the gaps of all comparisons and of further strata, corrected together; those of the strata come second."""
    found = find_gaps([*(comparison.stratum for comparison in comparisons), *strata])
    compared = [replace(c, gaps=[gap for gap in found if gap.stratum is c.stratum]) for c in comparisons]
    return compared, [gap for gap in found if any(gap.stratum is stratum for stratum in strata)]


def share_comparison(
    grouping: str,
    counts: Mapping[str, ShareCell],
    minimum: int,
    *,
    metric: str,
    gap: str,
    at: Mapping[str, Scalar] | None = None,
    key: str = "value",
    worse: int = -1,
) -> Comparison:
    """Prepare a comparison of shares; ``counts`` are those of ``share_counts``.

    ``metric`` and ``gap`` name the metrics. Groups have Wilson's interval; those of fewer than ``minimum`` images (or
    units, if the counts are by unit) are not compared. ``at`` says where the gap is measured, by default by
    ``grouping``.
    """
    from auditor.statistics import UnitCounts

    where = {"group": grouping} if at is None else at
    statistic = shares(over_units=any(isinstance(count, UnitCounts) for count in counts.values()))
    groups = {value: statistic.metric(metric, count, at={**where, key: value}) for value, count in counts.items()}
    small = {value: size for value, found in groups.items() if (size := sample_size(found)) < minimum}
    large = {value: count for value, count in counts.items() if value not in small}
    family = (gap, grouping, *(str(item) for item in where.values()))
    stratum = Stratum(gap=gap, cells=large, statistic=statistic, at=where, key=key, family=family, worse=worse)
    return Comparison(grouping=grouping, groups=groups, stratum=stratum, small=small)


def share_counts(hits: pd.Series, values: pd.Series, units: Units = None) -> dict[str, ShareCell]:
    """Return the number of True in ``hits``, and n, of each group in ``values``, by unit with ``units``; all (n,)."""
    if units is not None:
        from auditor import statistics

        text, flags = values.astype(str).to_numpy(), hits.to_numpy(dtype=bool)
        masks = {value: text == value for value in sorted(set(text))}
        return {value: share_cell(flags[mask], statistics.keep(units, mask)) for value, mask in masks.items()}
    by_group = hits.astype(bool).groupby(values.astype(str).to_numpy(), sort=True).agg(["sum", "size"])
    return {str(value): (int(row["sum"]), int(row["size"])) for value, row in by_group.iterrows()}


def gap_table(gaps: Sequence[Gap], *, title: str, caption: str = "", limit: int = 50) -> Table:
    """Tabulate gaps with both groups and their n, clearest first."""
    rows: list[list[Cell]] = [
        [
            gap.group,
            gap.estimate(gap.group).cell(),
            gap.estimate(gap.group).n,
            gap.against,
            gap.estimate(gap.against).cell(),
            gap.estimate(gap.against).n,
            gap.metric.cell(),
            probability(gap.p_value),
            "groups differ" if gap.significant else "not significant",
        ]
        for gap in gaps[:limit]
    ]
    if len(gaps) > limit:
        caption = f"{caption} First {limit} of {len(gaps)} gaps.".strip()
    return Table(
        title=title,
        columns=["group", "its value", "n", "better group", "its value", "n", "gap", "p (Holm)", "verdict"],
        formats=["text", "percent", "count", "text", "percent", "count", "percent", "text", "text"],
        rows=rows,
        caption=f"Each group against the better group to which its gap is clearest. {caption}".strip(),
    )


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
    """Groups with fewer images (or units, if the data states them) are listed but not compared."""

    def table(
        self,
        comparison: Comparison,
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
                "yes" if sample_size(metric) >= self.minimum else "too small",
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

    def curve(self, comparison: Comparison, *, title: str, statistic: str) -> Curve:
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
    def _ordered(comparison: Comparison, *, descending: bool = False) -> list[tuple[str, Metric]]:
        sign = -1 if descending else 1
        return sorted(comparison.groups.items(), key=lambda item: sign * (item[1].value or 0.0))

    def gap_findings(self, gaps: Sequence[Gap], title: str, subject: str) -> list[Finding]:
        """Return a finding for each significant gap; ``subject`` begins its statement, ``title`` its title."""
        found = []
        for gap in gaps:
            if gap.significant:
                # without the other group, which may differ in the next run
                parts = [str(part) for key, part in gap.metric.at.items() if key != "against"]
                found.append(
                    Finding(
                        id="/".join([self.meta.id, gap.metric.name.replace("_", "-"), *parts]),
                        title=f"{title}{place(dict(gap.metric.at))}",
                        statement=gap.statement(subject),
                        metric=gap.metric,
                    )
                )
        return found

    def undecided(self, records: Records, comparison: Comparison) -> str:
        """State that too few groups are large enough."""
        return (
            f"Undecided: fewer than two values of {comparison.grouping} have at least {self.minimum}"
            f" {records.kind if comparison.gap.units is None else 'units'}"
            f" (n = {formatting.sample_size(comparison.gap)})."
        )

    def too_small(self, frame: pd.DataFrame, by_group: Mapping[str, pd.Series], kind: str) -> str:
        """Say why no column of groups can be compared."""
        counts = [f"{name} with {values.nunique()}" for name, values in by_group.items()]
        noun = "units" if "unit" in frame else kind
        return (
            f"no column has two groups of at least {self.minimum} {noun}, so there is no gap to measure; columns and"
            f" numbers of groups: {', '.join(counts[:5])}{', ...' if len(counts) > 5 else ''}"
        )

    @staticmethod
    def extremes_text(comparison: Comparison) -> str:
        """Name the extreme groups with their shares and sizes."""
        lowest, highest = (
            f"{value} ({percent(metric := comparison.groups[value])}, n = {formatting.sample_size(metric)})"
            for value in (comparison.lowest, comparison.highest)
        )
        return f"Lowest: {lowest}; highest: {highest}."

    @staticmethod
    def small_text(comparison: Comparison) -> str:
        """Name the groups that are too small to compare, with their sizes; empty if there are none."""
        if not comparison.small:
            return ""
        over_units = comparison.compared.units is not None
        named = [f"{value} ({counted(n, 'unit') if over_units else n})" for value, n in comparison.small.items()]
        if len(named) > _SMALL_NAMED:
            named[_SMALL_NAMED:] = [f"and {len(named) - _SMALL_NAMED} more"]
        return f"Too small to compare: {', '.join(named)}."
