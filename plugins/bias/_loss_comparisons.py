"""Comparison of the losses to attacks and corruptions between groups and classes, for ``bias.robustness``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor import Records
from auditor.plugins.bias._distances import distance_comparison
from auditor.plugins.bias._losses import Loss
from auditor.probes.breakdown import Comparison, compare, share_comparison, share_counts
from auditor.probes.gaps import Gap, clearness
from auditor.probes.groupings import groupings
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import pandas as pd

    from auditor.findings.metric import Scalar


class Cut(NamedTuple):
    """The losses to one probe, compared by one grouping."""

    loss: Loss
    shares: Comparison
    distances: Comparison | None

    @property
    def gaps(self) -> list[Gap]:
        """All gaps, in losses and in distances."""
        return [*self.shares.gaps, *(self.distances.gaps if self.distances else ())]


def compare_losses(records: Records, losses: Sequence[Loss], minimum: int) -> list[Cut]:
    """Compare every loss by every grouping and by class; all gaps are corrected together. Clearest first."""
    cuts = [
        _cut(loss, name, values, key, minimum)
        for loss in losses
        for name, values, key in (
            *((name, values, "value") for name, values in groupings(loss.frame).items()),
            ("class", loss.frame["label"].map(records.class_name), "class"),
        )
    ]
    compared, _ = compare([each for cut in cuts for each in (cut.shares, cut.distances) if each])
    found = iter(compared)
    cuts = [Cut(cut.loss, next(found), next(found) if cut.distances else None) for cut in cuts]
    return sorted(cuts, key=lambda cut: clearness(cut.shares.gaps[0]) if cut.shares.gaps else (-1.0, 0.0), reverse=True)


def _cut(loss: Loss, name: str, values: pd.Series, key: str, minimum: int) -> Cut:
    """Prepare the comparisons of one loss by one grouping; ``key`` is "class" for the classes."""
    at: dict[str, Scalar] = {"probe": loss.probe_id}
    if key != "class":
        at["group"] = name
    units = unit_codes(loss.frame)
    shares = share_comparison(
        name,
        share_counts(loss.frame["lost"], values, units),
        minimum,
        metric="lost",
        gap="class_robustness_gap" if key == "class" else "robustness_gap",
        at=at,
        key=key,
        worse=1,
    )
    if "distance" not in loss.frame:
        return Cut(loss, shares, None)
    norm = str(loss.frame["norm"].iloc[0])
    distance = loss.frame["distance"].to_numpy()
    return Cut(loss, shares, distance_comparison(distance, values, shares, norm, at, units=units))
