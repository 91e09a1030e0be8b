"""HopSkipJump: down along the border of the class, knowing nothing but the labels that the model gives.

From a wrong image towards the clean one until the border; there the share of wrong answers among small random steps
gives the direction of the border's normal; a jump along it, halved until the answer is wrong; and back to the border.
Chen, Jordan and Wainwright 2020, arXiv:1904.02144, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, Probe, ThreatModel, hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness

    Wrong = Callable[[NDArray[np.int64], Pixels], NDArray[np.bool_]]
    """Whether the original gets images of these rows of the batch wrong."""
    Noise = Callable[[tuple[int, ...]], Pixels]
    """Random numbers of a shape."""

_PROBING, _FIRST_PROBING = 0.01, 0.1
"""Length of the random steps as a share of the distance, and of the first ones in pixels. The paper's share, 1 / number
of pixels, is less than what float32 can add to a pixel of a large image."""

_ASKED = 10_000
"""Most random steps for one direction, as in the published code."""

_HALVINGS = 20
"""Steps of bisection and halvings of a jump at most: 2^-20 of the distance is what float32 can tell apart."""

_BYTES = 64 << 20
"""Random steps are asked about in pieces of this size."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimumNorm):
    """All images at once; needs no copy of the model."""

    meta = Meta(
        id="attacks.hopskipjump",
        title="HopSkipJump",
        area="attacks",
        why="What anyone can do who may ask the deployed model for labels. A model that withstands gradients and not"
        " this attack hides its gradients and is not robust.",
        references=("https://arxiv.org/abs/1904.02144",),
        input_kinds=frozenset({"images", "rows"}),
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    nothing_found: ClassVar[str] = "no random image got a wrong answer to start from"
    norms: Sequence[str] = ("l2", "linf")
    """Of l2, linf."""
    iterations: int = 20
    """Jumps."""
    evaluations: int = 100
    """Random steps for the first direction; by the square root of the jump's number more for the later ones."""
    starts: int = 60
    """Random images that are tried as a start."""

    def __post_init__(self) -> None:
        """Refuse what cannot attack."""
        super().__post_init__()
        if "l1" in self.norms:
            raise ValueError("norms: HopSkipJump knows l2 and linf")
        if min(self.iterations, self.evaluations, self.starts) < 1:
            raise ValueError("iterations, evaluations and starts must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Any distance, labels only."""
        asked = sum(self._evaluations(i) for i in range(1, self.iterations + 1))
        return ThreatModel(
            goal="untargeted misclassification, as near as possible", knowledge="black-box",
            norm=" and ".join(self.norms),
            budget=f"any distance; labels of about {asked + 25 * self.iterations} images for each image and norm",
        )  # fmt: skip

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Per image the nearest point of the walk."""
        import numpy as np

        def wrong(rows: NDArray[np.int64], images: Pixels) -> NDArray[np.bool_]:
            answer: NDArray[np.bool_] = classifier.predict(images).argmax(axis=1) != batch.labels[rows]
            return answer

        best = batch.pixels.copy()
        rows, points = self._start(batch, rng, norm, wrong)
        if not len(rows):
            return best
        clean = batch.pixels[rows]
        points = _to_the_border(points, clean, norm, _tolerance(norm, clean[0].size), lambda x: wrong(rows, x))
        best[rows] = points
        shortest = distance = _distances(points - clean, norm)
        for jump in range(1, self.iterations + 1):
            step = np.full(len(rows), _FIRST_PROBING) if jump == 1 else _PROBING * distance
            noises = [_noise(rng(batch.ids[row], f"{norm} jump {jump}"), norm) for row in rows]
            normal = _normals(points, step, noises, self._evaluations(jump), lambda at, x: wrong(rows[at], x))
            points = _jump(points, np.sign(normal) if norm == "linf" else normal, distance / math.sqrt(jump),
                           lambda at, x: wrong(rows[at], x))  # fmt: skip
            points = _to_the_border(points, clean, norm, _tolerance(norm, clean[0].size), lambda x: wrong(rows, x))
            distance = _distances(points - clean, norm)
            nearer = distance < shortest
            best[rows[nearer]] = points[nearer]
            shortest = np.minimum(shortest, distance)
        return best

    def _evaluations(self, jump: int) -> int:
        """Random steps for the direction of this jump: as many more as the square root of its number."""
        return min(_ASKED, int(self.evaluations * math.sqrt(jump)))

    def _start(self, batch: Batch, rng: Randomness, norm: str, wrong: Wrong) -> tuple[NDArray[np.int64], Pixels]:
        """Images that get a wrong answer, with the rows of the batch that have one.

        Noise of single pixels, as in the paper, and of ever larger tiles: some models give all fine noise one label.
        """
        import numpy as np

        starts = batch.pixels.copy()
        left = np.arange(len(batch))
        numbers = [rng(image_id, f"{norm} start") for image_id in batch.ids]
        _, channels, height, width = batch.pixels.shape
        for trial in range(self.starts):
            if not len(left):
                break
            side = min(2 ** (trial % 4), height, width)
            coarse = (channels, -(-height // side), -(-width // side))
            tiles = np.stack([numbers[row].random(coarse, dtype=np.float32) for row in left])
            tried = tiles.repeat(side, axis=2).repeat(side, axis=3)[:, :, :height, :width]
            hit = wrong(left, tried)
            starts[left[hit]] = tried[hit]
            left = left[~hit]
        found = np.setdiff1d(np.arange(len(batch)), left)
        return found, starts[found]


def _to_the_border(
    points: Pixels, clean: Pixels, norm: str, tolerance: float, wrong: Callable[[Pixels], NDArray[np.bool_]]
) -> Pixels:
    """Wrong images moved towards the clean ones as far as they stay wrong, by bisection.

    In L2 along the straight line; in L-inf by shrinking the box around the clean image to which they are clipped.
    """
    import numpy as np

    low, high = np.zeros(len(points)), np.ones(len(points))
    delta = points - clean
    size = np.abs(delta).max(axis=(1, 2, 3))
    result = points
    for _ in range(min(_HALVINGS, math.ceil(-math.log2(tolerance)))):
        middle = (low + high) / 2
        share = middle.astype(np.float32).reshape(-1, 1, 1, 1)
        box = (middle * size).astype(np.float32).reshape(-1, 1, 1, 1)
        tried = (clean + (share * delta if norm == "l2" else delta.clip(-box, box))).clip(0, 1)
        hit = wrong(tried)
        high, low = np.where(hit, middle, high), np.where(hit, low, middle)
        result = np.where(hit.reshape(-1, 1, 1, 1), tried, result)
    return result


def _normals(points: Pixels, step: NDArray[np.float64], noises: Sequence[Noise], count: int, wrong: Wrong) -> Pixels:
    """The direction into the wrong side at each point, of length 1, from ``count`` random steps."""
    import numpy as np

    result = np.empty_like(points)
    together = max(1, _BYTES // (count * points[0].nbytes))
    for first in range(0, len(points), together):
        at = np.arange(first, min(first + together, len(points)))
        noise = np.stack([noises[i]((count, *points.shape[1:])) for i in at])
        size = step[at].astype(np.float32).reshape(-1, 1, 1, 1, 1)
        noise *= size / _euclid(noise)
        tried = (points[at][:, None] + noise).clip(0, 1)
        answers = wrong(at.repeat(count), tried.reshape(-1, *points.shape[1:])).reshape(len(at), count)
        signs = np.where(answers, np.float32(1), np.float32(-1))
        # against the mean the estimate varies less; where all answers are alike, that mean is all there is
        mixed = answers.any(axis=1) & ~answers.all(axis=1)
        weights = signs - np.where(mixed, signs.mean(axis=1), 0)[:, None].astype(np.float32)
        taken = tried - points[at][:, None]
        result[at] = np.einsum("nk,nkchw->nchw", weights, taken, optimize=True)
    return result / _euclid(result)


def _noise(numbers: np.random.Generator, norm: str) -> Noise:
    """Random steps of a shape: normal for L2, uniform for L-inf."""
    import numpy as np

    if norm == "l2":
        return lambda shape: numbers.standard_normal(shape, dtype=np.float32)
    return lambda shape: 2 * numbers.random(shape, dtype=np.float32) - 1


def _jump(points: Pixels, direction: Pixels, size: NDArray[np.float64], wrong: Wrong) -> Pixels:
    """A step of this size, halved until it ends on the wrong side; no step where none does."""
    import numpy as np

    result, left, length = points.copy(), np.arange(len(points)), size.astype(np.float32)
    for _ in range(_HALVINGS):
        tried = (points[left] + length[left].reshape(-1, 1, 1, 1) * direction[left]).clip(0, 1)
        hit = wrong(left, tried)
        result[left[hit]] = tried[hit]
        left = left[~hit]
        if not len(left):
            break
        length /= 2
    return result


def _tolerance(norm: str, pixels: int) -> float:
    """How near to the border, as a share of the distance, so that random steps fall on both sides of it."""
    return _PROBING / (math.sqrt(pixels) if norm == "l2" else pixels)


def _distances(delta: Pixels, norm: str) -> NDArray[np.float64]:
    import numpy as np

    flat = delta.reshape(len(delta), -1).astype(np.float64)
    size: NDArray[np.float64] = np.linalg.norm(flat, ord=np.inf if norm == "linf" else 2, axis=1)
    return size


def _euclid(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Length over the last three axes, kept, and never zero."""
    import numpy as np

    size: NDArray[np.float32] = np.sqrt(np.square(images).sum(axis=(-3, -2, -1), keepdims=True))
    return np.maximum(size, np.float32(1e-12))


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [HopSkipJump]
