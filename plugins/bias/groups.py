"""Accuracy gaps and fairness statistics between groups and between classes.

The gap is the accuracy of the best group minus that of the worst (Fairlearn's ``MetricFrame.difference``). The pair is
selected for being extreme, so its interval is Newcombe's with a Bonferroni correction over all pairs. Demographic
parity, equal opportunity and equalised odds have a bootstrap interval and a permutation test. P-values are adjusted
with Holm's method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, PerImage, Records, Table
from auditor.findings.formatting import points
from auditor.plugins.bias._fairness import FAIRNESS
from auditor.plugins.bias._group_rates import class_rates_table, fairness_table, fairness_tests, profile_table
from auditor.probes.breakdown import ALPHA, Breakdown, Comparison, compare_shares, holm_adjusted
from auditor.probes.groupings import groupings
from auditor.probes.shared_metrics import ACCURACY

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Columns, Evidence, Randomness

_MAX_CROSSED_CLASSES = 12
"""With more classes, groups are not crossed with the classes."""


@dataclass(frozen=True, kw_only=True)
class Groups(Breakdown):
    """Compare accuracy and fairness statistics between groups."""

    meta = Meta(
        id="bias.groups",
        title="Accuracy by group and by class",
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
        ACCURACY,
        *(statistic.spec for statistic in FAIRNESS.values()),
    )
    depends_on: ClassVar[Sequence[str]] = ("performance.accuracy",)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return whether each clean prediction is correct; no model calls."""
        del classifier, rng
        return {"correct": batch.predictions == batch.labels}

    def conclude(self, records: Records) -> Conclusion:
        """Compare accuracy by group, class and crossing; fairness statistics by group."""
        by_group = groupings(records.frame)
        comparisons = self._comparisons(records, _with_classes(records, by_group))
        tests = {name: fairness_tests(records, name, values, self.minimum) for name, values in by_group.items()}
        p_values = _adjusted(tests)
        metrics: list[Metric] = []
        findings: list[Finding] = []
        for comparison in comparisons:
            name = comparison.grouping
            statistics = {key: metric for key, (metric, _) in tests.get(name, {}).items()}
            metrics += [comparison.gap, *list(comparison.groups.values())[: self.rows_shown], *statistics.values()]
            details: list[Evidence] = []
            if statistics:
                details = [fairness_table(name, statistics, p_values), *self._rates(records, name, by_group[name])]
            findings.append(self._finding(records, comparison, len(comparisons), details))
        largest = max((c.gap for c in comparisons), key=lambda gap: (gap.low or 0.0, gap.value or 0.0))
        return Conclusion(metrics=[largest, *(m for m in metrics if m is not largest)], findings=findings)

    def _comparisons(self, records: Records, every: Mapping[str, pd.Series]) -> list[Comparison]:
        """Compare each grouping; where Holm's test is not significant, the gap's interval includes 0."""
        compared = [
            compare_shares(name, records.frame["correct"], values, self.minimum, metric="accuracy", gap="accuracy_gap")
            for name, values in every.items()
        ]
        # the policy judges the interval and the statement quotes the test: both must agree
        return [
            replace(c, gap=replace(c.gap, low=0.0)) if c.p_value >= ALPHA and c.gap.low else c
            for c in holm_adjusted(compared)
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
            for name, values in _with_classes(records, groupings(frame)).items()
            for value in sorted(set(values))
        ]

    def _finding(self, records: Records, comparison: Comparison, tests: int, details: Sequence[Evidence]) -> Finding:
        """Report one grouping; its p-value is adjusted for ``tests`` groupings."""
        name = comparison.grouping
        return Finding(
            id=f"{self.meta.id}/{name}",
            title=f"Accuracy by {name}",
            statement=f"{self._statement(records, comparison, tests)} {self.small_text(comparison)}".strip(),
            metric=comparison.gap,
            evidence=[
                self.table(comparison, title=f"Accuracy by {name}, lowest first", statistic="accuracy"),
                self.curve(comparison, title=f"Accuracy by {name} with intervals", statistic="accuracy"),
                *details,
            ],
        )

    def _statement(self, records: Records, comparison: Comparison, tests: int) -> str:
        name, gap = comparison.grouping, comparison.gap
        if gap.value is None or gap.low is None:
            return self.undecided(records, comparison)
        if comparison.highest == comparison.lowest:
            return f"Accuracy is equal in all groups by {name} that are large enough (n = {gap.n})."
        significant = comparison.verdict == "groups differ"
        differs = "differs significantly" if significant else "does not differ significantly"
        return (
            f"Accuracy {differs} by {name}: gap {points(gap)} (n = {gap.n}; p = {comparison.p_value:.2g}, Holm over"
            f" {tests} grouping{'s' if tests > 1 else ''}). {self.extremes_text(comparison)}"
        )


def _adjusted(tests: Mapping[str, Mapping[str, tuple[Metric, float]]]) -> dict[tuple[str, str], float]:
    """Return the p-values of all fairness statistics by (grouping, statistic), adjusted together."""
    from auditor import statistics

    keys = [(name, key) for name, found in tests.items() for key in found]
    return dict(zip(keys, statistics.holm([tests[name][key][1] for name, key in keys]), strict=True))


def _with_classes(records: Records, by_group: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """Add the classes, and each column crossed with the classes."""
    classes = records.frame["label"].map(records.class_name)
    every = {**by_group, "class": classes}
    if classes.nunique() <= _MAX_CROSSED_CLASSES:
        columns = groupings(records.frame, cross=False)
        every |= {f"{name} x class": by_group[name] + ", " + classes for name in columns}
    return every
