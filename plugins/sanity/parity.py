"""Parity of the differentiable copy and the deployed model, measured on every audited image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import Axis, Conclusion, Curve, Finding, Meta, Metric, PerImage, Point, Probe, Records, Series
from auditor.probes.shared_metrics import LABEL_AGREEMENT, MAX_ABS_DIFFERENCE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Randomness

_POINTS = 100
"""Points of the curve, so that many images do not make the report large."""


@dataclass(frozen=True, kw_only=True)
class Parity(Probe):
    """Compare scores and labels of the differentiable copy and the deployed model."""

    meta = Meta(
        id="sanity.parity",
        title="Parity of copy and deployed model",
        area="sanity",
        why="Gradients come from a differentiable copy. If it differs from the deployed model, failed attacks do not"
        " show robustness.",
        references=("https://arxiv.org/abs/1902.06705",),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    metrics = (LABEL_AGREEMENT, MAX_ABS_DIFFERENCE)

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the largest difference of a score and the agreement of the label for each image."""
        del rng
        difference, agree = classifier.compare(batch.pixels)
        return {"difference": difference, "agree": agree}

    def conclude(self, records: Records) -> Conclusion:
        """Report the label agreement and the distribution of the differences."""
        import numpy as np

        from auditor import statistics

        differences = np.sort(records.frame["difference"].to_numpy())
        agreement = statistics.proportion("label_agreement", records.frame["agree"], units=records.frame.get("unit"))
        largest = Metric(name="max_abs_difference", value=float(differences[-1]), n=len(differences), unit="1")
        finding = Finding(
            id="sanity.parity/agreement",
            title="Agreement of the differentiable copy with the deployed model",
            statement=f"Copy and deployed model predict the same label for {int(records.frame['agree'].sum())} of"
            f" {agreement.n} {records.kind}. Their scores differ by at most {largest.value:.2g}.",
            metric=agreement,
            evidence=[_distribution(records.kind, differences)],
        )
        return Conclusion(metrics=[agreement, largest], findings=[finding])

    def per_image(self, records: Records) -> list[PerImage]:
        """Return whether copy and deployed model agree on each image."""
        return [PerImage(name="label_agreement", values=records.frame.set_index("image_id")["agree"])]


def _distribution(kind: str, differences: NDArray[np.float64]) -> Curve:
    """Return the cumulative distribution of the sorted ``differences``, (n,)."""
    import numpy as np

    n = len(differences)
    shares = (np.arange(n) + 1) / n
    picks = np.unique(np.linspace(0, n - 1, _POINTS).astype(int))
    return Curve(
        title=f"Share of {kind} by difference between copy and deployed model",
        x=Axis(label="largest difference of a score", scale="symlog"),
        y=Axis(label=f"share of {kind}", format="percent", low=0, high=1, unit="fraction"),
        series=[Series(name=kind, points=[Point(x=float(differences[i]), y=float(shares[i])) for i in picks])],
        caption="A curve at the left edge indicates equal scores.",
    )
