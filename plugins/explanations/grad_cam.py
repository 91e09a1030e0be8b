"""Grad-CAM: the last convolution's channels, weighted by the mean gradient of the answer's logit, where positive
(Selvaraju et al. 2017, arXiv:1610.02391, section 3).

The last convolution is found by running the copy: the last two-dimensional one whose output still has a place (more
than one pixel). So it works on any copy, whatever its modules are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta, NotApplicable, Probe, hookimpl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


@dataclass(frozen=True, kw_only=True)
class GradCam(Explanation):
    """Where the last convolution saw what speaks for the answer."""

    meta = Meta(
        id="explanations.grad-cam",
        title="Grad-CAM",
        area="explanations",
        why="Cheap and the most common map of a convolutional network; as coarse as its last convolution, and blind to"
        " what speaks against the answer.",
        references=("https://arxiv.org/abs/1610.02391",),
        needs=frozenset({"gradients"}),
    )
    by_gradient: ClassVar[bool] = True
    samples: int = 32

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """The map at the image's size, bilinear, not negative, (n, h, w)."""
        del rng
        import numpy as np

        step = classifier.fixed_batch or len(batch)
        return np.concatenate([
            self._piece(classifier, batch.pixels[i : i + step], batch.predictions[i : i + step])
            for i in range(0, len(batch), step)
        ])  # fmt: skip

    def _piece(self, classifier: Classifier, pixels: NDArray[Any], answers: NDArray[Any]) -> NDArray[Any]:
        import torch

        from auditor.algorithms.layers import last_convolution

        found = last_convolution(classifier, pixels, answers)
        if found is None:
            raise NotApplicable("the copy shows no two-dimensional convolution to look at")
        if found.slope is None:
            raise NotApplicable("the answer does not depend on the copy's last convolution")
        weights = found.slope.mean(axis=(2, 3), keepdims=True)
        coarse = torch.from_numpy((weights * found.output).sum(axis=1, keepdims=True)).relu()
        fine = torch.nn.functional.interpolate(coarse, size=pixels.shape[2:], mode="bilinear", align_corners=False)
        result: NDArray[Any] = fine[:, 0].numpy()
        return result


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [GradCam]
