"""Grad-CAM: the positive part of the last convolution's channels, weighted by the mean gradient of the prediction's
logit (Selvaraju et al. 2017, arXiv:1610.02391, section 3).

The last convolution is found by running the differentiable copy: the last two-dimensional one whose output has more
than one pixel. It does not depend on module names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta, NotApplicable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


@dataclass(frozen=True, kw_only=True)
class GradCam(Explanation):
    """Locate the support for the prediction in the last convolution."""

    meta = Meta(
        id="explanations.grad-cam",
        title="Grad-CAM",
        area="explanations",
        why="The most common map of convolutional networks, and cheap. Its resolution is that of the last convolution,"
        " and it omits evidence against the prediction.",
        references=("https://arxiv.org/abs/1610.02391",),
        needs=frozenset({"gradients"}),
    )
    by_gradient: ClassVar[bool] = True
    samples: int = 32

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the non-negative map, bilinearly interpolated to the image size, (n, h, w)."""
        del rng
        import numpy as np

        step = classifier.fixed_batch or len(batch)
        chunks = [
            self._maps(classifier, batch.pixels[i : i + step], batch.predictions[i : i + step])
            for i in range(0, len(batch), step)
        ]
        return np.concatenate(chunks)

    def _maps(self, classifier: Classifier, pixels: NDArray[Any], predictions: NDArray[Any]) -> NDArray[Any]:
        import torch

        from auditor.algorithms.layers import last_convolution

        found = last_convolution(classifier, pixels, predictions)
        if found is None:
            raise NotApplicable("the differentiable copy has no two-dimensional convolution")
        if found.slope is None:
            raise NotApplicable("the prediction does not depend on the last convolution of the differentiable copy")
        weights = found.slope.mean(axis=(2, 3), keepdims=True)
        coarse = torch.from_numpy((weights * found.output).sum(axis=1, keepdims=True)).relu()
        fine = torch.nn.functional.interpolate(coarse, size=pixels.shape[2:], mode="bilinear", align_corners=False)
        result: NDArray[Any] = fine[:, 0].numpy()
        return result
