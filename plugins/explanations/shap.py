"""SHAP: Owen values of the image's regions, by shap's Partition explainer (Lundberg and Lee 2017, arXiv:1705.07874).
The hierarchy of regions halves the image along its longer side.

For tabular data: Shapley values of the features, with missing features taken from background rows. With at most
ten features, all subsets are evaluated; otherwise random permutations (shap's Exact and Permutation explainers, as shap
selects them).

With 500 evaluations the smallest regions have a few dozen pixels at 224x224.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from auditor import Explanation, Meta
from auditor.plugins.explanations._shap_values import MAX_EXACT, feature_values, image_values
from auditor.probes.explanation import library_seeds
from auditor.probes.random_state import kept_random_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


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
        needs=frozenset({"scores"}),
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

        with kept_random_state():
            if classifier.input_kind == "images":
                of_image = partial(
                    image_values, classifier, batch, fill=self.fill, evaluations=self.evaluations, batch_size=self.batch
                )
                return np.stack([of_image(i)[0].sum(axis=2) for i in range(len(batch))])
            of_row = partial(feature_values, classifier, batch, evaluations=self.evaluations)
            return np.stack([of_row(i, seed)[0] for i, seed in enumerate(library_seeds(batch, rng, "orders"))])

    def draws(self, classifier: Classifier) -> bool:
        """Return whether random orders are used: only for many features of tabular data."""
        return classifier.input_kind == "rows" and classifier.shape[0] > MAX_EXACT
