"""The random walk of SimBA along cosine functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness

_LOW_SHARE = 1 / 4
"""Share of the frequencies along each axis that are tried first; the paper takes 28 of 224 pixels."""


def walk(classifier: Classifier, batch: Batch, rng: Randomness, *, iterations: int, step: float) -> Pixels:
    """Return the first misclassified point of each random walk, (n, c, h, w); else the clean image.

    Args:
        classifier: The deployed model is queried for scores.
        batch: The clean images.
        rng: Source of the order of the directions.
        iterations: Number of directions that are tried.
        step: Length of a step in L2.
    """
    import numpy as np

    images = batch.pixels.copy()
    confidence = _confidence(classifier.log_probabilities(batch.pixels), batch.labels)
    orders = [_order(rng(image_id, "directions"), images.shape[1:], iterations) for image_id in batch.ids]
    left = np.arange(len(batch))
    for turn in range(iterations):
        if not len(left):
            break
        frequencies = np.stack([orders[row][turn % len(orders[row])] for row in left])
        direction = _cosines(frequencies, images.shape[1:])
        undecided = np.arange(len(left))
        wrong = np.zeros(len(left), dtype=bool)
        for signed in (np.float32(step), -np.float32(step)):
            rows = left[undecided]
            candidates = (images[rows] + signed * direction[undecided]).clip(0, 1)
            answers = classifier.log_probabilities(candidates)
            now = _confidence(answers, batch.labels[rows])
            better = now < confidence[rows]
            images[rows[better]], confidence[rows[better]] = candidates[better], now[better]
            wrong[undecided] = better & (answers.argmax(axis=1) != batch.labels[rows])
            undecided = undecided[~better]
            if not len(undecided):
                break
        left = left[~wrong]
    images[left] = batch.pixels[left]
    return images


def _order(generator: np.random.Generator, shape: tuple[int, ...], count: int) -> NDArray[np.int64]:
    """Draw the first ``count`` directions of one image, low frequencies first."""
    import numpy as np

    low, high = _low_and_high(*shape)
    return np.concatenate([generator.permutation(low), generator.permutation(high)])[:count]


def _confidence(log_probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log-odds of the label, (n,): they fall with its probability, also where float32 rounds that to 1."""
    import numpy as np

    rows = np.arange(len(labels))
    others = log_probabilities.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    return np.asarray(own - np.logaddexp.reduce(others, axis=1))


def _low_and_high(channels: int, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (channel, down, across) of the low and of the other frequencies, each (n, 3)."""
    import numpy as np

    every = np.indices((channels, height, width)).reshape(3, -1).T
    rows, columns = (max(1, math.ceil(_LOW_SHARE * side)) for side in (height, width))
    low = (every[:, 1] < rows) & (every[:, 2] < columns)
    return every[low], every[~low]


def _cosines(frequencies: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return orthonormal cosine functions (DCT-II), (n, c, h, w), of (channel, down, across), (n, 3)."""
    import numpy as np

    result = np.zeros((len(frequencies), *shape), dtype=np.float32)
    channel, down, across = frequencies.T

    def waves(frequency: NDArray[np.int64], length: int) -> NDArray[np.float64]:
        phase = np.pi * (np.arange(length) + 0.5)[None] * frequency[:, None] / length
        scale = np.sqrt((1 + (frequency > 0)) / length)
        wave: NDArray[np.float64] = scale[:, None] * np.cos(phase)
        return wave

    planes = np.einsum("nh,nw->nhw", waves(down, shape[1]), waves(across, shape[2]))
    result[np.arange(len(frequencies)), channel] = planes
    return result
