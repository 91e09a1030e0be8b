"""LIME: a local linear model of the effect of covering superpixels (Ribeiro, Singh and Guestrin 2016,
arXiv:1602.04938).

Samples, weights and regression are those of the lime package; its Python loop over masks is replaced by one array
operation and large batches. Tabular data uses the package's tabular explainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta
from auditor.plugins.explanations._lime_coefficients import feature_coefficients, superpixel_coefficients
from auditor.plugins.explanations._superpixels import superpixels
from auditor.probes.explanation import library_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


@dataclass(frozen=True, kw_only=True)
class Lime(Explanation):
    """Attribute the prediction to superpixels by a linear model around the image."""

    meta = Meta(
        id="explanations.lime",
        title="LIME",
        area="explanations",
        why="The best-known explanation method. It draws random samples: if another random seed gives another map,"
        " neither can be used.",
        references=("https://arxiv.org/abs/1602.04938",),
        input_kinds=frozenset({"images", "rows"}),
        needs=frozenset({"scores"}),
    )
    randomness: ClassVar[bool] = True
    samples: int = 16
    evaluations: int = 1000
    """Covered copies per image; for tabular data samples around the row."""
    segments: int = 50
    """Approximate number of superpixels; images of fewer than 32 pixels a side are divided into cells."""
    kernel_width: float = 0.25
    """Width of the kernel on the cosine distance, for images; the package's default."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.evaluations < 10 or self.segments < 2 or self.kernel_width <= 0:
            raise ValueError("evaluations must be at least 10, segments at least 2, kernel_width above 0")

    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the coefficient of each pixel's superpixel, (n, h, w), or of each feature, (n, features)."""
        import numpy as np

        maps = []
        for i, seed in enumerate(library_seeds(batch, rng, "samples")):
            if classifier.input_kind == "rows":
                maps.append(feature_coefficients(classifier, batch, i, seed, evaluations=self.evaluations))
                continue
            segments = superpixels(batch.pixels[i], self.segments)
            coefficients = superpixel_coefficients(
                classifier, batch, i, seed, segments, evaluations=self.evaluations, kernel_width=self.kernel_width
            )
            maps.append(coefficients[segments])
        return np.stack(maps)
