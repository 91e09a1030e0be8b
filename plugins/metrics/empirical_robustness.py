"""Empirical robustness: the size of the successful perturbations relative to the image.

The mean ratio of distance to image norm over the images on which an attack succeeded (Moosavi-Dezfooli, Fawzi and
Frossard 2016, arXiv:1511.04599, equation 2). It ignores all other images, so the success rate is always reported with
it: if few images are misclassified, it is a mean over the weakest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Level, Meta, Metric, MetricSpec, Records, Table
from auditor.algorithms.norms import image_norms
from auditor.findings.formatting import norm_name, percent
from auditor.probes.distances import AttackSummary, attack_records, norms_of, smallest
from auditor.probes.robustness_metrics import ATTACK_SUCCESS_RATE

if TYPE_CHECKING:
    import pandas as pd

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
        by_norm = {norm: _metrics(smallest(attacks, norm), records.frame, norm) for norm in norms_of(attacks)}
        metrics = [metric for pair in by_norm.values() for metric in pair]
        measured = {norm: pair for norm, pair in by_norm.items() if pair[0].value is not None}
        if not measured:
            return Conclusion(metrics=metrics, inconclusive="no attack succeeded on any image, so there is no mean")
        finding = Finding(
            id=f"{self.meta.id}/distances",
            title="Size of the successful perturbations",
            statement=". ".join(_text(norm, *pair) for norm, pair in measured.items()) + ".",
            metric=next(iter(measured.values()))[0],
            evidence=[
                Table(
                    title="Empirical robustness and success rate",
                    columns=["norm", "empirical robustness", "success rate", "images attacked"],
                    formats=["text", "percent", "percent", "count"],
                    rows=[
                        [norm_name(norm), mean.cell(), success.cell(), success.n]
                        for norm, (mean, success) in by_norm.items()
                    ],
                    caption="Smallest perturbation of each image over all attacks; the mean is over the successes.",
                )
            ],
        )
        return Conclusion(metrics=metrics, findings=[finding])


def _text(norm: str, mean: Metric, success: Metric) -> str:
    return (
        f"In {norm_name(norm)}, {percent(success)} of {success.n} correctly classified images were misclassified, at a"
        f" mean perturbation of {100 * (mean.value or 0):.2g} % of the image norm (n = {mean.n})"
    )


def _metrics(nearest: pd.DataFrame, frame: pd.DataFrame, norm: str) -> tuple[Metric, Metric]:
    """Return the mean relative distance and the success rate."""
    import numpy as np

    from auditor import statistics

    at: Level = {"norm": norm}
    nearest = nearest[nearest["distance"] > 0]
    relative: pd.Series[float] | list[float] = []
    if len(frame):
        norms = frame.set_index("image_id")[norm]
        nearest = nearest[nearest.index.isin(norms.index)]
        relative = nearest["distance"] / norms.reindex(nearest.index)
    found = np.isfinite(nearest["distance"])
    units = nearest.get("unit")
    success = statistics.proportion("attack_success_rate", found, at=at, units=units)
    mean = statistics.mean(
        "empirical_robustness", relative, unit="fraction", at=at, units=units if len(frame) else None
    )
    return mean, success
