"""Certificate of one image, for ``metrics.smoothing``."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier


class Certificate(NamedTuple):
    """Answer of the smoothed model, and the radius within which it is constant."""

    smoothed_prediction: int
    """-1 if the smoothed model abstains."""
    hits: int
    """Number of draws that returned the class."""
    radius: float
    """L2 radius; 0 if the smoothed model abstains."""


def certify(chosen: int, hits: int, draws: int, *, sigma: float, alpha: float) -> Certificate:
    """Certify the chosen class from its number of hits (Cohen et al. 2019, algorithm CERTIFY)."""
    from scipy.stats import beta

    # one-sided lower bound of Clopper and Pearson
    share = float(beta.ppf(alpha, hits, draws - hits + 1)) if hits else 0.0
    if share <= 0.5:
        return Certificate(-1, hits, 0.0)
    return Certificate(chosen, hits, _radius(share, sigma))


def largest_radius(draws: int, *, sigma: float, alpha: float) -> float:
    """Return the radius of an image whose class was returned in every draw."""
    return sigma * NormalDist().inv_cdf(alpha ** (1 / draws))


def _radius(share: float, sigma: float) -> float:
    from scipy.stats import norm

    return sigma * float(norm.ppf(share))


def count_answers(
    classifier: Classifier, image: Batch, generator: np.random.Generator, sigma: float, draws: int
) -> NDArray[np.int64]:
    """Count the answers under noise by class, (k,); clipping to [0, 1] is part of the smoothed model."""
    import numpy as np

    counts = np.zeros(classifier.n_classes, dtype=np.int64)
    for start in range(0, draws, classifier.batch_size):
        shape = (min(classifier.batch_size, draws - start), *image.pixels.shape[1:])
        # in place and in float32: at 224 x 224, drawing takes a quarter of the time of a small network's pass
        noisy = generator.standard_normal(shape, dtype=np.float32)
        noisy *= np.float32(sigma)
        noisy += image.pixels
        answers = classifier.predict(noisy.clip(0, 1, out=noisy)).argmax(axis=1)
        counts += np.bincount(answers, minlength=len(counts))
    return counts
