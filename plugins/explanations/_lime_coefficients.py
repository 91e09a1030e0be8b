"""The local linear models of LIME, equal to those of the lime package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier

_BYTES_PER_CALL = 64 << 20
"""Bytes of covered images per model call."""


def superpixel_coefficients(
    classifier: Classifier,
    batch: Batch,
    index: int,
    seed: int,
    segments: NDArray[Any],
    *,
    evaluations: int,
    kernel_width: float,
) -> NDArray[Any]:
    """Return one coefficient per superpixel, equal to that of lime 0.2.0.1 for this ``seed``."""
    import numpy as np
    from lime.lime_base import LimeBase
    from sklearn.metrics import pairwise_distances

    image, predicted = batch.pixels[index], int(batch.predictions[index])
    count = int(segments.max()) + 1
    random = np.random.RandomState(seed)
    data = random.randint(0, 2, evaluations * count).reshape(evaluations, count)
    data[0, :] = 1
    probabilities = _masked_probabilities(classifier, image, segments, data, predicted)
    distances = pairwise_distances(data, data[:1], metric="cosine").ravel()

    def kernel(distance: NDArray[Any]) -> NDArray[Any]:
        weight: NDArray[Any] = np.sqrt(np.exp(-(distance**2) / kernel_width**2))
        return weight

    _, pairs, _, _ = LimeBase(kernel, random_state=random).explain_instance_with_data(
        data, probabilities[:, None].astype(np.float64), distances, 0, count, feature_selection="none"
    )
    result = np.zeros(count)
    for segment, coefficient in pairs:
        result[segment] = coefficient
    return result


def feature_coefficients(
    classifier: Classifier, batch: Batch, index: int, seed: int, *, evaluations: int
) -> NDArray[Any]:
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
        row, probabilities, labels=(predicted,), num_features=len(row), num_samples=evaluations
    )
    result = np.zeros(len(row))
    for feature, coefficient in found.local_exp[predicted]:
        result[feature] = coefficient
    return result


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
