"""Loss sensitivity: the norm of the loss gradient at the image.

The norm of the gradient of each image's cross-entropy with respect to its pixels (Arpit et al. 2017, arXiv:1706.05394,
section 3.2), in L1, which bounds the effect of an L-infinity perturbation, and in L2. It describes a single point: a
model with masked gradients, and one with large logits, has a small one without being robust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, MetricSpec, Probe, Records
from auditor.algorithms.norms import image_norms
from auditor.plugins.metrics._gradient_norms import median_norms, norm_table

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Pixels, Randomness

_FLAT = 1e-8
"""L2 norm below which a gradient counts as zero."""


@dataclass(frozen=True, kw_only=True)
class LossSensitivity(Probe):
    """Measure the norms of the loss gradients."""

    meta = Meta(
        id="metrics.loss-sensitivity",
        title="Loss sensitivity",
        area="metrics",
        why="A steep loss means that small changes have large effects. A loss that is exactly flat means that gradients"
        " are masked.",
        references=("https://arxiv.org/abs/1706.05394",),
        needs=frozenset({"gradients"}),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        MetricSpec(
            name="loss_sensitivity_median", label="Median norm of the loss gradient", better="neither", unit="1"
        ),
        MetricSpec(name="loss_sensitivity_mean", label="Mean norm of the loss gradient", better="neither", unit="1"),
        MetricSpec(name="loss_flat", label="Images with a zero loss gradient", better="neither"),
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image."""
        del rng
        import torch

        from auditor.algorithms.losses import cross_entropy

        pixels = classifier.tensor(batch.pixels).requires_grad_()
        labels = torch.from_numpy(batch.labels).to(pixels.device)
        # the sum, not the mean: an image's gradient must not depend on its neighbours in the batch
        (slope,) = torch.autograd.grad(cross_entropy(classifier.logits(pixels), labels).sum(), pixels)
        gradients: Pixels = slope.cpu().numpy()
        return {norm: image_norms(gradients, norm) for norm in ("l2", "l1")}

    def conclude(self, records: Records) -> Conclusion:
        """Return median and mean over all images, and medians of correct and misclassified ones."""
        from auditor import statistics

        frame = records.frame
        flat, units = frame["l2"] < _FLAT, frame.get("unit")
        median, median_l1 = median_norms(frame)
        mean = statistics.mean("loss_sensitivity_mean", frame["l2"], unit="1", at={"norm": "l2"}, units=units)
        share = statistics.proportion("loss_flat", flat, units=units)
        text = "not measured" if median.value is None else f"{median.value:.3g}"
        finding = Finding(
            id=f"{self.meta.id}/gradient",
            title="Norm of the loss gradient",
            statement=f"The median L2 norm of the loss gradient is {text} nats per unit of L2 (n = {median.n}). It is"
            f" below 1e-8 on {int(flat.sum())} of {len(frame)} images.",
            metric=median,
            evidence=[norm_table(frame)],
        )
        return Conclusion(metrics=[median, mean, median_l1, share], findings=[finding])
