"""SHAP: Owen values of the image's regions, by shap's Partition explainer (Lundberg and Lee 2017, arXiv:1705.07874).
The hierarchy of regions halves the image along its longer side.

For tabular data: Shapley values of the features, with missing features taken from background rows. With at most
ten features, all subsets are evaluated; otherwise random permutations (shap's Exact and Permutation explainers, as shap
selects them).

shap's blur masker caches by the id of an array, which Python reuses; this masker holds its own array for each image.
With 500 evaluations the smallest regions have a few dozen pixels at 224x224.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from auditor import Explanation, Meta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


_MAX_EXACT = 10
"""Features up to which all sets are evaluated, as in shap.Explainer."""

_ROWS_PER_CALL = 20_000


@dataclass(frozen=True, kw_only=True)
class Shap(Explanation):
    """Attribute the prediction's probability to regions, averaged over orders of uncovering them."""

    meta = Meta(
        id="explanations.shap",
        title="SHAP values",
        area="explanations",
        why="Shapley values divide the prediction's probability among the regions. They sum to the difference between"
        " the image and a covered image.",
        references=("https://arxiv.org/abs/1705.07874", "https://shap.readthedocs.io/"),
        input_kinds=frozenset({"images", "rows"}),
    )
    samples: int = 16
    evaluations: int = 500
    """Model evaluations per image; for tabular data sets of features, each with every background row."""
    batch: int = 64
    """Evaluations per call. shap refines the most important regions only between calls: larger values are faster and
    give coarser maps."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.evaluations < 10 or self.batch < 1:
            raise ValueError("evaluations must be at least 10, batch at least 1")

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the sum over the channels of each pixel's share of the probability, (n, h, w)."""
        import numpy as np

        if classifier.input_kind == "images":
            return np.stack([self.values(classifier, batch, i)[0].sum(axis=2) for i in range(len(batch))])
        seeds = [int(rng(image_id, "orders").integers(2**31)) for image_id in batch.ids]
        return np.stack([self.features(classifier, batch, i, seed)[0] for i, seed in enumerate(seeds)])

    def draws(self, classifier: Classifier) -> bool:
        """Return whether random orders are used: only for many features of tabular data."""
        return classifier.input_kind == "rows" and classifier.shape[0] > _MAX_EXACT

    def values(self, classifier: Classifier, batch: Batch, index: int) -> tuple[NDArray[Any], float]:
        """Return the SHAP values of one image, (h, w, c), and the prediction's probability for the covered image."""
        import numpy as np

        from auditor.algorithms.masking import colours

        shap = _library()
        image = batch.pixels[index].transpose(1, 2, 0)
        colour = colours(batch.pixels[index : index + 1], self.fill)[0]
        covered = np.broadcast_to(colour.transpose(1, 2, 0), image.shape)
        predicted = int(batch.predictions[index])

        def probability(images: NDArray[Any]) -> NDArray[Any]:
            pixels = np.asarray(images, dtype=np.float32).transpose(0, 3, 1, 2)
            return classifier.predict(pixels)[:, predicted : predicted + 1].astype(np.float64)

        # a copy, because shap's maskers keep the previous image
        masker = copy.copy(_masker(image.shape))
        masker.mask_value = covered.flatten()
        explainer = shap.PartitionExplainer(probability, masker)
        found = explainer(image[None], max_evals=self.evaluations, batch_size=self.batch, silent=True)
        return np.asarray(found.values)[0, ..., 0], float(np.ravel(found.base_values)[0])

    def features(self, classifier: Classifier, batch: Batch, index: int, seed: int) -> tuple[NDArray[Any], float]:
        """Return the SHAP values of one row, (features,), and the prediction's mean probability over the background."""
        import numpy as np

        from auditor.probes.cells import background

        shap = _library()
        rows = background(classifier)
        row = batch.pixels[index][None]
        predicted, width = int(batch.predictions[index]), row.shape[1]

        def probability(features: NDArray[Any]) -> NDArray[Any]:
            pixels = np.asarray(features, dtype=np.float32)
            return classifier.predict(pixels)[:, predicted].astype(np.float64)

        masker = shap.maskers.Independent(rows, max_samples=len(rows))
        batch_size = max(1, _ROWS_PER_CALL // len(rows))
        if width <= _MAX_EXACT:
            explainer = shap.ExactExplainer(probability, masker)
            evaluations = 2**width
        else:
            explainer = shap.PermutationExplainer(probability, masker, seed=seed)
            # at least one order in both directions
            evaluations = max(self.evaluations, 2 * width + 1)
        found = explainer(row, max_evals=evaluations, batch_size=batch_size, silent=True)
        return np.asarray(found.values)[0], float(np.ravel(found.base_values)[0])


@lru_cache(maxsize=2)
def _masker(shape: tuple[int, ...]) -> Any:
    """Return shap's masker of images (h, w, c); its tree of regions takes a second at 224 x 224."""
    import numpy as np

    return _library().maskers.Image(np.zeros(shape), shape)


def _library() -> Any:
    """Import shap without its warning about a future matplotlib."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap
    return shap
