"""SHAP: Owen values of the image's regions, by shap's Partition explainer (Lundberg and Lee 2017, arXiv:1705.07874;
the hierarchy halves the image along its longer side). Of rows: Shapley values of the features, those not yet uncovered
taken from other rows of the table; all sets of features up to ten of them, else random orders (shap's Exact and
Permutation explainers, what shap picks by itself).

The library keeps its results and gets large batches. Its blur masker caches by the id of an array, which Python gives
out again; here the masker holds an array of its own for each image. With 500 evaluations the map is coarse: the
smallest regions have some dozens of pixels at 224x224.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from auditor import Explanation, Meta, Probe, hookimpl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


_EXACT = 10
"""Features up to which all sets are asked about, as in shap.Explainer."""

_ROWS = 20_000
"""Rows asked about at a time."""


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
        input_kinds=frozenset({"images", "rows"}),
    )
    samples: int = 16
    evaluations: int = 500
    """Model evaluations for each image; of a row sets of features, each of them on every background row."""
    batch: int = 64
    """Evaluations at a time: the library opens the regions that matter most only between batches, so larger ones are
    faster and their maps coarser where it matters."""

    def __post_init__(self) -> None:
        """Refuse what cannot explain."""
        if self.evaluations < 10 or self.batch < 1:
            raise ValueError("evaluations must be at least 10, batch at least 1")

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Sum over the channels of each pixel's share, (n, h, w); the map adds up to the answer's probability."""
        import numpy as np

        if classifier.input_kind == "images":
            return np.stack([self.values(classifier, batch, i)[0].sum(axis=2) for i in range(len(batch))])
        seeds = [int(rng(image_id, "orders").integers(2**31)) for image_id in batch.ids]
        return np.stack([self.features(classifier, batch, i, seed)[0][None] for i, seed in enumerate(seeds)])

    def draws(self, classifier: Classifier) -> bool:
        """Only the orders of many features are random."""
        return classifier.input_kind == "rows" and classifier.shape[2] > _EXACT

    def values(self, classifier: Classifier, batch: Batch, index: int) -> tuple[NDArray[Any], float]:
        """Shap values (h, w, c) of one image, and the probability of the answer for the covered image."""
        import numpy as np

        from auditor.algorithms.masking import colours

        shap = _library()

        image = batch.pixels[index].transpose(1, 2, 0)
        colour = colours(batch.pixels[index : index + 1], self.fill)[0]
        covered = np.broadcast_to(colour.transpose(1, 2, 0), image.shape)
        answer = int(batch.predictions[index])

        def probability(images: NDArray[Any]) -> NDArray[Any]:
            pixels = np.asarray(images, dtype=np.float32).transpose(0, 3, 1, 2)
            return classifier.predict(pixels)[:, answer : answer + 1].astype(np.float64)

        # a copy of its own: shap's maskers remember the image before
        masker = copy.copy(_masker(image.shape))
        masker.mask_value = covered.flatten()
        explainer = shap.PartitionExplainer(probability, masker)
        found = explainer(image[None], max_evals=self.evaluations, batch_size=self.batch, silent=True)
        return np.asarray(found.values)[0, ..., 0], float(np.ravel(found.base_values)[0])

    def features(self, classifier: Classifier, batch: Batch, index: int, seed: int) -> tuple[NDArray[Any], float]:
        """Shap values (features,) of one row, and the mean probability of the answer over the background."""
        import numpy as np

        from auditor.probes.explanation import background

        shap = _library()
        usual = background(classifier)
        row = batch.pixels[index].reshape(1, -1)
        answer, width = int(batch.predictions[index]), row.shape[1]

        def probability(rows: NDArray[Any]) -> NDArray[Any]:
            pixels = np.asarray(rows, dtype=np.float32).reshape(-1, 1, 1, width)
            return classifier.predict(pixels)[:, answer].astype(np.float64)

        masker = shap.maskers.Independent(usual, max_samples=len(usual))
        at_once = max(1, _ROWS // len(usual))
        if width <= _EXACT:
            found = shap.ExactExplainer(probability, masker)(row, max_evals=2**width, batch_size=at_once, silent=True)
        else:
            # fewer than one order, forth and back, is no estimate
            evaluations = max(self.evaluations, 2 * width + 1)
            explainer = shap.PermutationExplainer(probability, masker, seed=seed)
            found = explainer(row, max_evals=evaluations, batch_size=at_once, silent=True)
        return np.asarray(found.values)[0], float(np.ravel(found.base_values)[0])


@lru_cache(maxsize=2)
def _masker(shape: tuple[int, ...]) -> Any:
    """shap's masker of images (h, w, c). Its tree of regions takes a second at 224 x 224 and is the same for all."""
    import numpy as np

    return _library().maskers.Image(np.zeros(shape), shape)


def _library() -> Any:
    """shap, which at import warns of matplotlib's future."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap
    return shap


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Shap]
