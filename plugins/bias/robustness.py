"""Robustness by group: accuracy lost to attacks and corruptions, and distance to errors (Nanda et al. 2021,
arXiv:2006.12621). Uses the records of every attack and corruption; no model calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from auditor import Conclusion, Finding, Meta, MetricSpec, Records, Table
from auditor.findings.formatting import points
from auditor.plugins.bias._distances import DISTANCE_GAP, compare_distances, distance_format, distance_tables
from auditor.plugins.bias._losses import Loss, find_losses
from auditor.probes.breakdown import Breakdown, Column, Comparison, compare_shares, holm_adjusted
from auditor.probes.derived import DerivedProbe
from auditor.probes.groupings import groupings

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell


class Cut(NamedTuple):
    """The losses to one probe, compared by one grouping."""

    loss: Loss
    shares: Comparison
    distances: Comparison | None


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
        DISTANCE_GAP,
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
        cuts = self._cuts(records, losses)
        # the largest gap whose interval excludes 0 comes first
        cuts.sort(key=lambda c: (c.shares.gap.value is None, -(c.shares.gap.low or 0.0), -(c.shares.gap.value or 0.0)))
        by_grouping: dict[str, list[Cut]] = {}
        for cut in cuts:
            by_grouping.setdefault(cut.shares.grouping, []).append(cut)
        gaps = [cut.shares.gap for cut in cuts] + [cut.distances.gap for cut in cuts if cut.distances]
        findings = [self._finding(records, name, group, len(cuts)) for name, group in by_grouping.items()]
        return Conclusion(metrics=gaps, findings=findings)

    def _cuts(self, records: Records, losses: Sequence[Loss]) -> list[Cut]:
        """Compare every loss by every grouping; p-values adjusted over all of them."""
        shares: list[Comparison] = []
        distances: dict[int, Comparison] = {}
        of_share: list[Loss] = []
        for loss in losses:
            by_class = {"class": loss.frame["label"].map(records.class_name)}
            for name, values in (groupings(loss.frame) | by_class).items():
                found = compare_shares(
                    name, loss.frame["lost"], values, self.minimum, metric="lost", gap="robustness_gap"
                )
                at = {"probe": loss.probe_id, "group": name}
                if "distance" in loss.frame:
                    norm = str(loss.frame["norm"].iloc[0])
                    compared = compare_distances(loss.frame["distance"].to_numpy(), values, found, norm)
                    gap = replace(compared.gap, at={**at, "norm": norm})
                    distances[len(shares)] = replace(compared, gap=gap)
                shares.append(replace(found, gap=replace(found.gap, at=at)))
                of_share.append(loss)
        adjusted = dict(zip(distances, holm_adjusted(list(distances.values())), strict=True))
        return [
            Cut(loss, share, adjusted.get(i))
            for i, (loss, share) in enumerate(zip(of_share, holm_adjusted(shares), strict=True))
        ]

    def _finding(self, records: Records, name: str, cuts: Sequence[Cut], tests: int) -> Finding:
        """Report one grouping; p-values are adjusted for ``tests`` tests."""
        rows: list[list[Cell]] = [
            [
                cut.loss.probe_id,
                cut.loss.definition,
                cut.shares.highest,
                cut.shares.lowest,
                cut.shares.gap.cell(),
                cut.shares.gap.n,
                f"{cut.shares.p_value:.2g}",
                cut.shares.verdict,
            ]
            for cut in cuts
        ]
        table = Table(
            title=f"Share of correct {records.kind} lost, by {name}",
            columns=["probe", "lost means", "highest loss", "lowest loss", "gap", "n", "p (Holm)", "verdict"],
            formats=["text", "text", "text", "text", "percent", "count", "text", "text"],
            rows=rows,
            caption=f"Of the {records.kind} classified correctly without perturbation. Intervals account for the"
            " selection of the extreme groups.",
        )
        compared = [(cut.loss.probe_id, cut.distances) for cut in cuts if cut.distances]
        return Finding(
            id=f"{self.meta.id}/{name}",
            title=f"Robustness by {name}",
            statement=self._statement(records, cuts, tests),
            metric=cuts[0].shares.gap,
            evidence=[table, *distance_tables(records, name, compared), self._detail(records, cuts[0])],
        )

    def _statement(self, records: Records, cuts: Sequence[Cut], tests: int) -> str:
        first = cuts[0].shares
        if first.gap.value is None:
            return self.undecided(records, first)
        if first.highest == first.lowest:
            return f"Loss is equal in all groups by {first.grouping} under all {len(cuts)} probes (n = {first.gap.n})."
        significant = sum(cut.shares.verdict == "groups differ" for cut in cuts)
        return (
            f"Robustness differs significantly by {first.grouping} under {significant} of {len(cuts)} attacks and"
            f" corruptions. Clearest gap in the share of correct predictions lost: {points(first.gap)} under"
            f" {cuts[0].loss.probe_id} (n = {first.gap.n}; p = {first.p_value:.2g}, Holm over {tests} tests)."
            f" {self.extremes_text(first)}"
        )

    def _detail(self, records: Records, cut: Cut) -> Table:
        columns: list[Column] = []
        caption = ""
        if cut.distances:
            medians = {value: metric.cell() for value, metric in cut.distances.groups.items()}
            style = distance_format(records, cut.distances.gap.unit)
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
