"""SimBA: steps along random directions, forwards or backwards, kept if they lower the label's probability.

Guo et al. 2019, arXiv:1905.07121, algorithm 1, with the orthonormal cosine basis of section 3.3, low frequencies first.
When all directions have been tried (small images), they are tried again. The step is half that of the paper: on small
images, longer steps overshoot perturbations planted at 0.5 in L2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness

_LOW_SHARE = 1 / 4
"""Share of the frequencies along each axis that are tried first; the paper takes 28 of 224 pixels."""


@dataclass(frozen=True, kw_only=True)
class Simba(MinimumNorm):
    """Query the deployed model for scores; each image has its own random order of directions."""

    meta = Meta(
        id="attacks.simba",
        title="SimBA",
        area="attacks",
        why="The simplest score-based attack: it needs the confidence of each prediction and a few thousand queries."
        " A model that withstands gradient attacks and not this one masks its gradients.",
        references=("https://arxiv.org/abs/1905.07121",),
        version=2,
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    failure_text: ClassVar[str] = "the search reached no wrong answer"
    norms: Sequence[str] = ("l2",)
    iterations: int = 1000
    """Directions that are tried."""
    step: float = 0.1
    """Length of a step in L2."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if tuple(self.norms) != ("l2",):
            raise ValueError("norms: this is the attack in l2")
        if self.iterations < 1 or self.step <= 0:
            raise ValueError("iterations must be at least 1, step above 0")

    def threat_model(self) -> ThreatModel:
        """Return scores and many queries."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="l2",
            budget=f"{self.iterations} directions, steps of {self.step:g}; at most {2 * self.iterations} queries for"
            " each image",
        )

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the first misclassified point of each random walk."""
        del norm
        import numpy as np

        images = batch.pixels.copy()
        confidence = _confidence(classifier.log_probabilities(batch.pixels), batch.labels)
        orders = [self._order(rng(image_id, "directions"), images.shape[1:]) for image_id in batch.ids]
        left = np.arange(len(batch))
        for turn in range(self.iterations):
            if not len(left):
                break
            frequencies = np.stack([orders[row][turn % len(orders[row])] for row in left])
            direction = _cosines(frequencies, images.shape[1:])
            undecided = np.arange(len(left))
            wrong = np.zeros(len(left), dtype=bool)
            for step in (np.float32(self.step), -np.float32(self.step)):
                rows = left[undecided]
                candidates = (images[rows] + step * direction[undecided]).clip(0, 1)
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

    def _order(self, generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Draw the order of the directions of one image, low frequencies first."""
        import numpy as np

        low, high = _low_and_high(*shape)
        return np.concatenate([generator.permutation(low), generator.permutation(high)])[: self.iterations]


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
