"""LIME: a local linear model of the effect of covering superpixels (Ribeiro, Singh and Guestrin 2016,
arXiv:1602.04938).

Samples, weights and regression are those of the lime package; its Python loop over masks is replaced by one array
operation and large batches. Tabular data uses the package's tabular explainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Explanation, Meta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness

_BYTES_PER_CALL = 64 << 20
"""Bytes of covered images per model call."""


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
        """Return the coefficient of each pixel's superpixel, (n, h, w)."""
        import numpy as np

        if classifier.input_kind == "rows":
            seeds = [int(rng(image_id, "samples").integers(2**31)) for image_id in batch.ids]
            return np.stack([self.features(classifier, batch, i, seed) for i, seed in enumerate(seeds)])
        maps = []
        for i in range(len(batch)):
            segments = self.superpixels(batch.pixels[i])
            seed = int(rng(batch.ids[i], "samples").integers(2**31))
            maps.append(self.coefficients(classifier, batch, i, segments, seed)[segments])
        return np.stack(maps)

    def coefficients(
        self, classifier: Classifier, batch: Batch, index: int, segments: NDArray[Any], seed: int
    ) -> NDArray[Any]:
        """Return one coefficient per superpixel, equal to that of lime 0.2.0.1 for this ``seed``."""
        import numpy as np
        from lime.lime_base import LimeBase
        from sklearn.metrics import pairwise_distances

        image, predicted = batch.pixels[index], int(batch.predictions[index])
        count = int(segments.max()) + 1
        random = np.random.RandomState(seed)
        data = random.randint(0, 2, self.evaluations * count).reshape(self.evaluations, count)
        data[0, :] = 1
        probabilities = _masked_probabilities(classifier, image, segments, data, predicted)
        distances = pairwise_distances(data, data[:1], metric="cosine").ravel()

        def kernel(distance: NDArray[Any]) -> NDArray[Any]:
            weight: NDArray[Any] = np.sqrt(np.exp(-(distance**2) / self.kernel_width**2))
            return weight

        _, pairs, _, _ = LimeBase(kernel, random_state=random).explain_instance_with_data(
            data, probabilities[:, None].astype(np.float64), distances, 0, count, feature_selection="none"
        )
        result = np.zeros(count)
        for segment, coefficient in pairs:
            result[segment] = coefficient
        return result

    def features(self, classifier: Classifier, batch: Batch, index: int, seed: int) -> NDArray[Any]:
        """Return one coefficient per feature of a row, by lime's tabular explainer for this ``seed``."""
        import numpy as np
        from lime.lime_tabular import LimeTabularExplainer

        from auditor.probes.cells import background

        row, predicted = batch.pixels[index], int(batch.predictions[index])

        def probabilities(rows: NDArray[Any]) -> NDArray[Any]:
            pixels = np.asarray(rows, dtype=np.float32).clip(0, 1)
            return classifier.predict(pixels).astype(np.float64)

        explainer = LimeTabularExplainer(background(classifier), feature_selection="none", random_state=seed)
        found = explainer.explain_instance(
            row, probabilities, labels=(predicted,), num_features=len(row), num_samples=self.evaluations
        )
        result = np.zeros(len(row))
        for feature, coefficient in found.local_exp[predicted]:
            result[feature] = coefficient
        return result

    def superpixels(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the index of each pixel's superpixel, (h, w), from 0: by SLIC, or cells for small images."""
        import numpy as np

        from auditor.algorithms.masking import cells

        height, width = pixels.shape[1:]
        if min(height, width) >= 32:
            from skimage.segmentation import slic

            found = slic(
                pixels.transpose(1, 2, 0), n_segments=self.segments, compactness=10, start_label=0, channel_axis=2
            )
            numbers: NDArray[Any] = np.unique(found, return_inverse=True)[1].reshape(height, width)
            return numbers
        numbers = np.zeros((height, width), dtype=np.int64)
        most = max(2, round(self.segments**0.5))
        # cells of equal size if possible, because larger cells have larger effects
        even = [d for d in range((most + 1) // 2, most + 1) if height % d == 0 and width % d == 0]
        for number, cell in enumerate(cells(height, width, even[-1] if even else most)):
            numbers[cell.top : cell.bottom, cell.left : cell.right] = number
        return numbers


def _masked_probabilities(
    classifier: Classifier, image: NDArray[Any], segments: NDArray[Any], data: NDArray[Any], predicted: int
) -> NDArray[Any]:
    """Return the probability of class ``predicted`` for each sample, (samples,).

    ``data`` (samples, superpixels) is 1 for kept superpixels; others of ``segments`` (h, w) show their mean colour.
    """
    import numpy as np

    count = data.shape[1]
    size = np.bincount(segments.ravel(), minlength=count)
    mean = np.stack([np.bincount(segments.ravel(), channel.ravel(), minlength=count) / size for channel in image])
    covered = mean[:, segments].astype(np.float32)
    step = max(1, _BYTES_PER_CALL // image.nbytes)
    probabilities = []
    for start in range(0, len(data), step):
        kept = data[start : start + step][:, segments].astype(bool)[:, None]
        probabilities.append(classifier.predict(np.where(kept, image, covered))[:, predicted])
    return np.concatenate(probabilities)
