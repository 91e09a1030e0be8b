"""Parity: is the differentiable copy the model? Compared on every audited image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, PerImage, Point, Probe, Records, Series, hookimpl

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Parity(Probe):
    """Largest difference of scores and agreement of labels between copy and original."""

    meta = Meta(
        id="sanity.parity",
        title="Copy against original",
        area="sanity",
        why="Gradients come from a copy of the artefact. If the copy is another model, a failed attack on it says"
        " nothing about the deployed one.",
        references=("https://arxiv.org/abs/1902.06705",),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image."""
        del rng
        difference, agree = classifier.compare(batch.pixels)
        return {"difference": difference, "agree": agree}

    def conclude(self, records: Records) -> Conclusion:
        """Agreement with interval, and the distribution of the differences."""
        import numpy as np

        from auditor import statistics

        differences = np.sort(records.frame["difference"].to_numpy())
        agreement = statistics.proportion("label_agreement", records.frame["agree"])
        largest = Metric(name="max_abs_difference", value=float(differences[-1]), n=len(differences), unit="1")
        shares = (np.arange(len(differences)) + 1) / len(differences)
        # a hundred points draw the distribution; a hundred thousand would only make the file large
        picks = np.unique(np.linspace(0, len(differences) - 1, 100).astype(int))
        curve = Curve(
            title=f"Share of {records.kind} by difference between copy and original",
            x=Axis(label="largest difference of a score", scale="symlog"),
            y=Axis(label=f"share of {records.kind}", format="percent", low=0, high=1, unit="fraction"),
            series=[
                Series(name=records.kind, points=[Point(x=float(differences[i]), y=float(shares[i])) for i in picks])
            ],
            caption="A curve at the left edge means that copy and original give the same scores.",
        )
        same = int(records.frame["agree"].sum())
        finding = Finding(
            id="sanity.parity/agreement",
            title="Agreement of the differentiable copy with the deployed model",
            statement=f"Copy and original give the same label to {same} of {agreement.n} {records.kind}; their scores"
            f" differ by {largest.value:.2g} at most.",
            metric=agreement,
            evidence=[curve],
        )
        return Conclusion(metrics=[agreement, largest], findings=[finding])

    def per_image(self, records: Records) -> list[PerImage]:
        """Whether copy and original agree on each image."""
        return [PerImage(name="label_agreement", values=records.frame.set_index("image_id")["agree"])]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Parity]
