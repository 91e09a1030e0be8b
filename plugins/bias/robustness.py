"""Robustness by group: accuracy lost to attacks and corruptions, and distance to errors (Nanda et al. 2021,
arXiv:2006.12621). Uses the records of every attack and corruption; no model calls.

Differences between classes are listed under their own metrics, because they are no bias against a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, MetricSpec, Records, Table
from auditor.findings.formatting import counted, points, probability, sample_size
from auditor.plugins.bias._distances import CLASS_DISTANCE_GAP, DISTANCE_GAP, distance_format, distance_tables
from auditor.plugins.bias._loss_comparisons import Cut, compare_losses
from auditor.plugins.bias._losses import find_losses
from auditor.probes.breakdown import Breakdown, Column
from auditor.probes.derived import DerivedProbe
from auditor.probes.gaps import Gap, clearness
from auditor.probes.groupings import groupings

if TYPE_CHECKING:
    import pandas as pd

    from auditor.findings.evidence import Cell


@dataclass(frozen=True, kw_only=True)
class RobustnessBias(DerivedProbe, Breakdown):
    """Compare robustness between groups and between classes."""

    meta = Meta(
        id="bias.robustness",
        title="Robustness by group",
        area="bias",
        why="Groups with equal accuracy on clean images can differ in how easily their images are turned into errors.",
        references=("https://arxiv.org/abs/2006.12621",),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (
        MetricSpec(name="robustness_gap", label="Robustness gap", better="lower", difference=True),
        MetricSpec(name="class_robustness_gap", label="Class robustness gap", better="lower", difference=True),
        DISTANCE_GAP,
        CLASS_DISTANCE_GAP,
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*", "corruptions.*")
    rows_shown = 60
    epsilon: float = 8 / 255
    """L-infinity size at which attacks are compared."""

    def conclude(self, records: Records) -> Conclusion:
        """Compare the share of lost images and the distance to errors by group, for each attack and corruption."""
        losses = find_losses(records, self.epsilon)
        if not losses:
            return Conclusion(inconclusive="no attack and no corruption was run, so there is nothing to compare")
        cuts = compare_losses(records, losses, self.minimum)
        by_grouping: dict[str, list[Cut]] = {}
        for cut in cuts:
            by_grouping.setdefault(cut.shares.grouping, []).append(cut)
        gaps = [gap for cut in cuts for gap in cut.gaps]
        undecided = [cut.shares.gap for cut in cuts if not cut.shares.gaps]
        lost, nearer = _split(sorted(gaps, key=_groups_first, reverse=True))
        compared = any(gap.metric.name == "robustness_gap" for gap in gaps)
        return Conclusion(
            metrics=[*(gap.metric for gap in [*lost, *nearer]), *undecided],
            findings=[
                *self.gap_findings(lost, "Robustness gap", f"Share of correct {records.kind} lost"),
                *self.gap_findings(nearer, "Distance gap", "Median distance to the error found"),
                *(self._finding(records, name, group) for name, group in by_grouping.items()),
            ],
            inconclusive="" if compared else self._no_groups(losses[0].frame, records.kind),
        )

    def _no_groups(self, frame: pd.DataFrame, kind: str) -> str:
        """Say why groups cannot be compared; gaps between classes are reported, but are no bias."""
        by_group = groupings(frame, cross=False)
        return self.too_small(frame, by_group, kind) if by_group else "the data name no groups to compare"

    def _finding(self, records: Records, name: str, cuts: Sequence[Cut]) -> Finding:
        """Report one grouping; significant gaps have their own findings, which carry the metric."""
        rows: list[list[Cell]] = [
            [
                cut.loss.probe_id,
                cut.loss.definition,
                gap.group,
                gap.estimate(gap.group).cell(),
                gap.against,
                gap.estimate(gap.against).cell(),
                gap.metric.cell(),
                gap.metric.n,
                probability(gap.p_value),
                cut.shares.verdict,
            ]
            for cut in cuts
            for gap in cut.shares.significant or cut.shares.gaps[:1]
        ]
        table = Table(
            title=f"Share of correct {records.kind} lost, by {name}",
            columns=["probe", "lost means", "more lost", "its loss", "less lost", "its loss", "gap", "n", "p (Holm)",
                     "verdict"],
            formats=["text", "text", "text", "percent", "text", "percent", "percent", "count", "text", "text"],
            rows=rows,
            caption=f"Of the {records.kind} classified correctly without perturbation. All significant gaps of a probe,"
            " otherwise its clearest one. The intervals of the gaps hold jointly.",
        )  # fmt: skip
        compared = [(cut.loss.probe_id, cut.distances) for cut in cuts if cut.distances]
        gap = cuts[0].shares.gap
        found = any(cut.shares.significant for cut in cuts)
        return Finding(
            id=f"{self.meta.id}/{name}",
            title=f"Robustness by {name}",
            statement=self._statement(records, cuts),
            metric=None if found else gap,
            n=gap.n if found else None,
            evidence=[table, *distance_tables(records, name, compared), self._detail(records, cuts[0])],
        )

    def _statement(self, records: Records, cuts: Sequence[Cut]) -> str:
        first = cuts[0].shares
        if not first.gaps:
            return self.undecided(records, first)
        n = sample_size(first.compared)
        if all(cut.shares.gap.value in (0.0, None) for cut in cuts):
            return f"Loss is equal in all groups by {first.grouping} under all {len(cuts)} probes (n = {n})."
        significant = sum(bool(cut.shares.significant) for cut in cuts)
        gaps = counted(sum(len(cut.shares.significant) for cut in cuts), "significant gap")
        return (
            f"Robustness differs significantly by {first.grouping} under {significant} of"
            f" {counted(len(cuts), 'attack or corruption', 'attacks and corruptions')}: {gaps} in the share of correct"
            f" {records.kind} lost. Clearest under {cuts[0].loss.probe_id}: {points(first.gap)} (n ="
            f" {sample_size(first.gap)}), {first.gaps[0].test}. {self.extremes_text(first)}"
        )

    def _detail(self, records: Records, cut: Cut) -> Table:
        columns: list[Column] = []
        caption = ""
        if cut.distances:
            medians = {value: metric.cell() for value, metric in cut.distances.groups.items()}
            style = distance_format(records, cut.distances.stratum.unit)
            columns = [Column("median distance found", medians, style)]
            caption = f"No distance: the group is too small, or most of its {records.kind} were never misclassified."
        return self.table(
            cut.shares,
            title=f"{cut.loss.probe_id} by {cut.shares.grouping}",
            statistic=f"share {cut.loss.definition}",
            columns=columns,
            descending=True,
            caption=caption,
        )


def _split(gaps: Sequence[Gap]) -> tuple[list[Gap], list[Gap]]:
    """Return the gaps in losses, and those in distances."""
    lost = [gap for gap in gaps if gap.stratum.unit == "fraction"]
    return lost, [gap for gap in gaps if gap.stratum.unit != "fraction"]


def _groups_first(gap: Gap) -> tuple[bool, float, float]:
    """Sort key, ascending: gaps between groups, then the clearest."""
    return "group" in gap.metric.at, *clearness(gap)
