"""Loss sensitivity: how steeply the loss rises at the image itself.

The length of the gradient of each image's cross-entropy in pixels (Arpit et al. 2017, arXiv:1706.05394, section 3.2),
of each image by itself, in L1, the slope that an L-infinity perturbation sees, and in L2. A property of one point: a
masked model has a small one and is no more robust for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Meta, Probe, Records, Table, hookimpl

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class LossSensitivity(Probe):
    """Lengths of the loss gradients."""

    meta = Meta(
        id="metrics.loss-sensitivity",
        title="Loss sensitivity",
        area="metrics",
        why="Where the loss is steep a small change goes far; where it is flat to the last digit, gradients are"
        " masked.",
        references=("https://arxiv.org/abs/1706.05394",),
        needs=frozenset({"gradients"}),
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image."""
        import numpy as np

        from auditor.algorithms.art import ArtClassifier

        del rng
        slopes = ArtClassifier(classifier).loss_gradient(batch.pixels, batch.labels).reshape(len(batch), -1)
        wide = slopes.astype(np.float64)
        return {"l2": np.sqrt((wide**2).sum(axis=1)), "l1": np.abs(wide).sum(axis=1)}

    def conclude(self, records: Records) -> Conclusion:
        """Median and mean over images, of the right ones and of the wrong ones apart."""
        from auditor import statistics

        frame = records.frame
        right = frame["prediction"] == frame["label"]
        median = statistics.median("loss_sensitivity_median", frame["l2"], unit="1", at={"norm": "l2"})
        mean = statistics.mean("loss_sensitivity_mean", frame["l2"], unit="1", at={"norm": "l2"})
        steepest = statistics.median("loss_sensitivity_median", frame["l1"], unit="1", at={"norm": "l1"})
        flat = statistics.proportion("loss_flat", frame["l2"] < 1e-8)
        rows: list[list[Any]] = []
        for name, some in (("all", frame), ("answered right", frame[right]), ("answered wrong", frame[~right])):
            lengths = [statistics.median("m", some[norm], unit="1") for norm in ("l2", "l1")]
            rows.append([name, *(length.cell() for length in lengths), len(some)])
        value = "not measured" if median.value is None else f"{median.value:.3g}"
        finding = Finding(
            id=f"{self.meta.id}/gradient",
            title="Slope of the loss at the images",
            statement=f"The loss of the median image rises by {value} nats per unit of L2 (n = {median.n}); the"
            f" gradient is shorter than 1e-8 on {int((frame['l2'] < 1e-8).sum())} of {len(frame)} images.",
            metric=median,
            evidence=[
                Table(
                    title="Length of the loss gradient, median", columns=["images", "L2", "L1", "n"],
                    formats=["text", "number", "number", "count"], rows=rows,
                    caption="The L1 length is what a perturbation of L-infinity size 1 would change the loss by, were"
                    " it a plane.",
                )
            ],
        )  # fmt: skip
        return Conclusion(metrics=[median, mean, steepest, flat], findings=[finding])


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [LossSensitivity]
