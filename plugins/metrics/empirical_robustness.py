"""Empirical robustness: the size of the successful perturbations relative to the image.

The mean ratio of distance to image norm over the images on which an attack succeeded (Moosavi-Dezfooli, Fawzi and
Frossard 2016, arXiv:1511.04599, equation 2). It ignores all other images, so the success rate is always reported with
it: if few images are misclassified, it is a mean over the weakest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, MetricSpec, Records
from auditor.algorithms.norms import image_norms
from auditor.plugins.metrics._relative_distances import distance_table, distance_text, relative_distance
from auditor.probes.distances import AttackSummary, attack_records, norms_of, smallest
from auditor.probes.robustness_metrics import ATTACK_SUCCESS_RATE

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class EmpiricalRobustness(AttackSummary):
    """Relate the smallest perturbations that the attacks found to the norms of the images."""

    meta = Meta(
        id="metrics.empirical-robustness",
        title="Empirical robustness",
        area="metrics",
        why="The mean size of the successful perturbations; meaningful only together with the success rate.",
        references=("https://arxiv.org/abs/1511.04599",),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(name="empirical_robustness", label="Empirical robustness", better="neither"),
        ATTACK_SUCCESS_RATE,
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the norms of the images."""
        del classifier, rng
        return {norm: image_norms(batch.pixels, norm) for norm in ("linf", "l2", "l1")}

    def conclude(self, records: Records) -> Conclusion:
        """Return per norm the mean relative distance and the success rate."""
        attacks = attack_records(records.others)
        by_norm = {norm: relative_distance(smallest(attacks, norm), records.frame, norm) for norm in norms_of(attacks)}
        metrics = [metric for pair in by_norm.values() for metric in pair]
        measured = {norm: pair for norm, pair in by_norm.items() if pair[0].value is not None}
        if not measured:
            return Conclusion(metrics=metrics, inconclusive="no attack succeeded on any image, so there is no mean")
        finding = Finding(
            id=f"{self.meta.id}/distances",
            title="Size of the successful perturbations",
            statement=". ".join(distance_text(norm, *pair) for norm, pair in measured.items()) + ".",
            metric=next(iter(measured.values()))[0],
            evidence=[distance_table(by_norm)],
        )
        return Conclusion(metrics=metrics, findings=[finding])
