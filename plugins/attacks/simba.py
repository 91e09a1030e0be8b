"""SimBA: one random direction after the other, a step there or back where that lowers the label's probability.

Guo et al. 2019, arXiv:1905.07121, algorithm 1, with the cosine basis of section 3.3: of the low frequencies first, an
orthonormal one at a time. Images so small that every direction was tried are gone through again. The step is half that
of the paper: on small images fewer and longer ones end too far away to find what is planted at 0.5 in L2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, Probe, ThreatModel, hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness

_LOW = 1 / 4
"""Share of the frequencies along each axis that come first: 28 of 224 pixels in the paper, of small images more."""


@dataclass(frozen=True, kw_only=True)
class Simba(MinimumNorm):
    """All images at once, each along its own random order; asks the original for its scores and for nothing else."""

    meta = Meta(
        id="attacks.simba",
        title="SimBA",
        area="attacks",
        why="The simplest attack by scores: whoever sees a confidence and may ask a thousand times can do it. A model"
        " that withstands gradients and not this attack hides its gradients.",
        references=("https://arxiv.org/abs/1905.07121",),
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    nothing_found: ClassVar[str] = "its steps reached no wrong answer"
    norms: Sequence[str] = ("l2",)
    iterations: int = 1000
    """Directions that are tried."""
    step: float = 0.1
    """Length of a step, in L2."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        super().__post_init__()
        if tuple(self.norms) != ("l2",):
            raise ValueError("norms: this is the attack in l2")
        if self.iterations < 1 or self.step <= 0:
            raise ValueError("iterations must be at least 1, step above 0")

    def threat_model(self) -> ThreatModel:
        """Scores and many questions."""
        return ThreatModel(
            goal="untargeted misclassification", knowledge="black-box", norm="l2",
            budget=f"{self.iterations} directions, steps of {self.step:g}; at most {2 * self.iterations} questions for"
            " each image",
        )  # fmt: skip

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Per image the first point of the walk that gets a wrong answer."""
        del norm
        import numpy as np

        images = batch.pixels.copy()
        labels = batch.labels
        confidence = batch.probabilities[np.arange(len(batch)), labels]
        low, high = _low_first(*images.shape[1:])
        orders = []
        for image_id in batch.ids:
            numbers = rng(image_id, "directions")
            orders.append(np.concatenate([numbers.permutation(low), numbers.permutation(high)])[: self.iterations])
        left = np.arange(len(batch))
        for turn in range(self.iterations):
            if not len(left):
                break
            some = [orders[row][turn % len(orders[row])] for row in left]
            direction = _cosines(np.stack(some), images.shape[1:])
            undecided = np.arange(len(left))
            broken = np.zeros(len(left), dtype=bool)
            for sign in (np.float32(self.step), -np.float32(self.step)):
                rows = left[undecided]
                tried = (images[rows] + sign * direction[undecided]).clip(0, 1)
                answers = classifier.predict(tried)
                now = answers[np.arange(len(rows)), labels[rows]]
                better = now < confidence[rows]
                images[rows[better]], confidence[rows[better]] = tried[better], now[better]
                broken[undecided] = better & (answers.argmax(axis=1) != labels[rows])
                undecided = undecided[~better]
                if not len(undecided):
                    break
            left = left[~broken]
        unbroken = np.isin(np.arange(len(batch)), left)
        images[unbroken] = batch.pixels[unbroken]
        return images


def _low_first(channels: int, height: int, width: int) -> list[NDArray[np.int64]]:
    """(channel, down, across) of the low frequencies, then of the others; each (n, 3)."""
    import numpy as np

    every = np.indices((channels, height, width)).reshape(3, -1).T
    low = (every[:, 1] < max(1, math.ceil(_LOW * height))) & (every[:, 2] < max(1, math.ceil(_LOW * width)))
    return [every[low], every[~low]]


def _cosines(which: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Orthonormal functions of the cosine transform (DCT-II), (n, c, h, w), of (channel, down, across), (n, 3)."""
    import numpy as np

    result = np.zeros((len(which), *shape), dtype=np.float32)
    channel, down, across = which.T

    def waves(frequency: NDArray[np.int64], length: int) -> NDArray[np.float64]:
        phase = np.pi * (np.arange(length) + 0.5)[None] * frequency[:, None] / length
        scale = np.sqrt((1 + (frequency > 0)) / length)
        wave: NDArray[np.float64] = scale[:, None] * np.cos(phase)
        return wave

    planes = np.einsum("nh,nw->nhw", waves(down, shape[1]), waves(across, shape[2]))
    result[np.arange(len(which)), channel] = planes
    return result


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Simba]
