"""SHAP: Owen values of the image's regions, by shap's Partition explainer (Lundberg and Lee 2017, arXiv:1705.07874;
the hierarchy halves the image along its longer side).

The library keeps its results and gets large batches. Its blur masker caches by the id of an array, which Python gives
out again; here the masker holds an array of its own for each image. With 500 evaluations the map is coarse: the
smallest regions have some dozens of pixels at 224x224.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Explanation, Meta, Probe, hookimpl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.classifier import Classifier
    from auditor.images import Batch
    from auditor.probe import Randomness


@dataclass(frozen=True, kw_only=True)
class Shap(Explanation):
    """Which regions add to the answer's probability, and how much, over all orders of uncovering them."""

    meta = Meta(
        id="explanations.shap",
        title="SHAP values",
        area="explanations",
        why="Shapley values share the answer's probability out among the regions; their sum is what the image adds to a"
        " covered one, so nothing is left unexplained.",
        references=("https://arxiv.org/abs/1705.07874", "https://shap.readthedocs.io/"),
    )
    samples: int = 16
    evaluations: int = 500
    """Model evaluations for each image."""
    batch: int = 64
    """Evaluations at a time: the library opens the regions that matter most only between batches, so larger ones are
    faster and their maps coarser where it matters."""

    def __post_init__(self) -> None:
        """Refuse what cannot explain."""
        if self.evaluations < 10 or self.batch < 1:
            raise ValueError("evaluations must be at least 10, batch at least 1")

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Sum over the channels of each pixel's share, (n, h, w); the map adds up to the answer's probability."""
        del rng
        import numpy as np

        return np.stack([self.values(classifier, batch, i)[0].sum(axis=2) for i in range(len(batch))])

    def values(self, classifier: Classifier, batch: Batch, index: int) -> tuple[NDArray[Any], float]:
        """Shap values (h, w, c) of one image, and the probability of the answer for the covered image."""
        import warnings

        import numpy as np

        with warnings.catch_warnings():
            # at import, of matplotlib's future
            warnings.simplefilter("ignore")
            import shap
        from auditor.blocks import colours

        image = batch.pixels[index].transpose(1, 2, 0)
        colour = colours(batch.pixels[index : index + 1], self.fill)[0]
        covered = np.broadcast_to(colour.transpose(1, 2, 0), image.shape)
        answer = int(batch.predictions[index])

        def probability(images: NDArray[Any]) -> NDArray[Any]:
            pixels = np.asarray(images, dtype=np.float32).transpose(0, 3, 1, 2)
            return classifier.predict(pixels)[:, answer : answer + 1].astype(np.float64)

        explainer = shap.PartitionExplainer(probability, shap.maskers.Image(np.array(covered), image.shape))
        found = explainer(image[None], max_evals=self.evaluations, batch_size=self.batch, silent=True)
        return np.asarray(found.values)[0, ..., 0], float(np.ravel(found.base_values)[0])


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Shap]
