"""Accuracy gaps and fairness statistics between groups.

The gap of a group is its accuracy below a better group, over all images and within each class (equal opportunity). All
gaps are corrected together (``auditor/probes/gaps.py``). Demographic parity, equal opportunity and equalised odds, each
over all groups, have a bootstrap interval and a permutation test, adjusted with Holm's method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, PerImage, Records, Table
from auditor.findings.formatting import counted, points, sample_size
from auditor.plugins.bias._fairness import FAIRNESS
from auditor.plugins.bias._group_rates import class_rates_table, fairness_table, fairness_tests, profile_table
from auditor.plugins.bias._rate_gaps import listed, rate_findings, rate_strata
from auditor.probes.breakdown import Breakdown, Comparison, compare, gap_table, share_comparison, share_counts
from auditor.probes.gaps import Gap, clearness
from auditor.probes.groupings import groupings
from auditor.probes.shared_metrics import ACCURACY
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Columns, Evidence, Randomness


@dataclass(frozen=True, kw_only=True)
class Groups(Breakdown):
    """Compare accuracy and fairness statistics between groups."""

    meta = Meta(
        id="bias.groups",
        title="Accuracy by group",
        area="bias",
        why="A high overall accuracy can hide a group with low accuracy. Groups come from the data's own columns;"
        " nothing is inferred from faces.",
        references=(
            "https://fairlearn.org/main/user_guide/assessment/index.html",
            "https://arxiv.org/abs/1802.04697",
            "https://arxiv.org/abs/1610.02413",
        ),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (
        MetricSpec(name="accuracy_gap", label="Accuracy gap", better="lower", difference=True),
        MetricSpec(name="false_positive_rate_gap", label="False positive rate gap", better="lower", difference=True),
        # not "lower": the shares of predictions also differ if the groups have different labels
        MetricSpec(name="selection_rate_gap", label="Selection rate gap", better="neither", difference=True),
        ACCURACY,
        *(statistic.spec for statistic in FAIRNESS.values()),
    )
    depends_on: ClassVar[Sequence[str]] = ("performance.accuracy",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return whether each clean prediction is correct; no model calls."""
        del classifier, rng
        return {"correct": batch.predictions == batch.labels}

    def conclude(self, records: Records) -> Conclusion:
        """Compare accuracy by group, rates by group and class, and fairness statistics by group."""
        by_group = groupings(records.frame)
        if not by_group:
            return Conclusion(
                inconclusive="the data name no groups, so bias was not measured; add a column such as sex or camera"
            )
        uncrossed = groupings(records.frame, cross=False)
        comparisons, rates = compare(
            self._comparisons(records, by_group), rate_strata(records, uncrossed, self.minimum)
        )
        fairness, p_values = fairness_tests(records, by_group, self.minimum)
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for comparison in comparisons:
            name = comparison.grouping
            statistics = fairness[name]
            metrics += [*list(comparison.groups.values())[: self.rows_shown], *statistics.values()]
            details: list[Evidence] = []
            if statistics:
                details = [fairness_table(name, statistics, p_values), *self._rates(records, name, by_group[name])]
            findings.append(self._finding(records, comparison, details))
        gaps = sorted([gap for c in comparisons for gap in c.gaps], key=clearness, reverse=True)
        shown = sorted([*gaps, *listed(rates)], key=_key_first, reverse=True)
        undecided = [comparison.gap for comparison in comparisons if not comparison.gaps]
        return Conclusion(
            metrics=[*(gap.metric for gap in shown), *undecided, *metrics],
            findings=[*self.gap_findings(gaps, "Accuracy gap", "Accuracy"), *rate_findings(self, rates), *findings],
            inconclusive="" if gaps else self.too_small(records.frame, uncrossed, records.kind),
        )

    def _comparisons(self, records: Records, by_group: Mapping[str, pd.Series]) -> list[Comparison]:
        correct, units = records.frame["correct"], unit_codes(records.frame)
        return [
            share_comparison(
                name, share_counts(correct, values, units), self.minimum, metric="accuracy", gap="accuracy_gap"
            )
            for name, values in by_group.items()
        ]

    def _rates(self, records: Records, name: str, values: pd.Series) -> list[Table]:
        """Tabulate the rates of each group, and of each class in it."""
        # a crossing has many small cells, for which a bootstrap is slow and imprecise
        uncrossed = name in groupings(records.frame, cross=False)
        by_class = class_rates_table(records, name, values, self.minimum, with_scores=uncrossed)
        tables = [profile_table(records, name, values, self.minimum), *by_class]
        return [table for table in tables if table.rows]

    def per_image(self, records: Records) -> list[PerImage]:
        """Return whether each image of a group is classified correctly."""
        frame = records.frame
        correct = frame.set_index("image_id")["correct"]
        return [
            PerImage(name="accuracy", values=correct[(values == value).to_numpy()], at={"group": name, "value": value})
            for name, values in groupings(frame).items()
            for value in sorted(set(values))
        ]

    def _finding(self, records: Records, comparison: Comparison, details: Sequence[Evidence]) -> Finding:
        """Report one grouping; significant gaps have their own findings, which carry the metric."""
        name, gap = comparison.grouping, comparison.gap
        return Finding(
            id=f"{self.meta.id}/{name}",
            title=f"Accuracy by {name}",
            statement=f"{self._statement(records, comparison)} {self.small_text(comparison)}".strip(),
            metric=None if comparison.significant else gap,
            n=gap.n if comparison.significant else None,
            evidence=[
                self.table(comparison, title=f"Accuracy by {name}, lowest first", statistic="accuracy"),
                gap_table(comparison.gaps, title=f"Accuracy gaps by {name}"),
                self.curve(comparison, title=f"Accuracy by {name} with intervals", statistic="accuracy"),
                *details,
            ],
        )

    def _statement(self, records: Records, comparison: Comparison) -> str:
        name, gaps = comparison.grouping, comparison.gaps
        if not gaps:
            return self.undecided(records, comparison)
        n = sample_size(comparison.compared)
        if comparison.groups[comparison.highest].value == comparison.groups[comparison.lowest].value:
            return f"Accuracy is equal in all groups by {name} that are large enough (n = {n})."
        found = comparison.significant
        if found:
            compared = len(comparison.stratum.cells)
            text = f"differs significantly by {name}: {counted(len(found), 'significant gap')} in {compared} groups"
            return f"Accuracy {text} (n = {n}). {self.extremes_text(comparison)}"
        return (
            f"Accuracy does not differ significantly by {name}: largest gap {points(gaps[0].metric)} (n ="
            f" {sample_size(gaps[0].metric)}), {gaps[0].test}. {self.extremes_text(comparison)}"
        )


def _key_first(gap: Gap) -> tuple[bool, bool, float, float]:
    """Sort key, ascending: significant gaps in accuracy, then other gaps in accuracy, then the clearest."""
    accuracy = gap.metric.name == "accuracy_gap"
    return accuracy and gap.significant, accuracy, *clearness(gap)
