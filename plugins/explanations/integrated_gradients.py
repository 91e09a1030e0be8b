"""Integrated Gradients: the gradient of the prediction's logit, averaged on the line from a covered image to the image
and multiplied by the difference (Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 3), computed by captum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Explanation):
    """Attribute the prediction's logit to pixels."""

    meta = Meta(
        id="explanations.integrated-gradients",
        title="Integrated Gradients",
        area="explanations",
        why="The map sums to the difference of the prediction's logit between the image and a covered image. It"
        " attributes to single pixels, not regions.",
        references=("https://arxiv.org/abs/1703.01365", "https://captum.ai/"),
        needs=frozenset({"gradients"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    by_gradient: ClassVar[bool] = True
    samples: int = 32
    iterations: int = 32
    """Gauss-Legendre steps of the integral."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.iterations < 1:
            raise ValueError("iterations must be at least 1")

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the sum over the channels, (n, h, w), or one value per feature, (n, features)."""
        del rng
        import numpy as np
        import torch
        from captum.attr import IntegratedGradients as Captum

        from auditor.probes.cells import covering

        pixels = classifier.tensor(batch.pixels)
        covered = classifier.tensor(np.broadcast_to(covering(classifier, batch.pixels, self.fill), batch.pixels.shape))
        predictions = torch.from_numpy(batch.predictions).to(pixels.device)
        found = Captum(classifier.logits, multiply_by_inputs=True).attribute(
            pixels,
            covered,
            target=predictions,
            n_steps=self.iterations,
            internal_batch_size=max(classifier.batch_size, len(batch)),
        )
        if classifier.input_kind == "images":
            found = found.sum(dim=1)
        result: NDArray[Any] = found.detach().cpu().numpy()
        return result
