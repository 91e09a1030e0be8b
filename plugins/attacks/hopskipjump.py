"""HopSkipJump: walk along the class boundary, using only the labels that the deployed model returns.

Move a misclassified image towards the clean one until the boundary; estimate the boundary's normal from the share of
wrong answers among small random steps; jump along it, halving the jump until the answer is wrong; and repeat.
Chen, Jordan and Wainwright 2020, arXiv:1904.02144, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Level, Meta, MinimumNorm, ThreatModel
from auditor.algorithms.norms import image_norms
from auditor.plugins.attacks import _hopskipjump_steps as steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness
    from auditor.plugins.attacks._hopskipjump_steps import IsWrong

_MOST_EVALUATIONS = 10_000
"""Largest number of random steps for one normal, as in the published code."""

_BISECTION_QUERIES = 25
"""Approximate queries of a bisection and a jump, for the threat model."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(MinimumNorm):
    """Query the deployed model for labels; needs no differentiable copy."""

    meta = Meta(
        id="attacks.hopskipjump",
        title="HopSkipJump",
        area="attacks",
        why="Anyone who can query the deployed model for labels can run this attack. A model that withstands gradient"
        " attacks and not this one masks its gradients and is not robust.",
        references=("https://arxiv.org/abs/1904.02144",),
        input_kinds=frozenset({"images", "rows"}),
    )
    headline: ClassVar[Level] = {"norm": "l2", "epsilon": 0.5}
    failure_text: ClassVar[str] = "no random image was misclassified, so the search could not start"
    norms: Sequence[str] = ("l2", "linf")
    """Any of l2, linf."""
    iterations: int = 20
    """Jumps."""
    evaluations: int = 100
    """Random steps for the first normal; multiplied by the square root of the jump's number for later ones."""
    starts: int = 60
    """Random images that are tried as a start."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if "l1" in self.norms:
            raise ValueError("norms: HopSkipJump supports l2 and linf")
        if min(self.iterations, self.evaluations, self.starts) < 1:
            raise ValueError("iterations, evaluations and starts must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Return any distance and labels only."""
        queries = sum(self._evaluations(i) + _BISECTION_QUERIES for i in range(1, self.iterations + 1))
        return ThreatModel(
            goal="untargeted misclassification, as near as possible",
            knowledge="black-box",
            norm=" and ".join(self.norms),
            budget=f"any distance; labels of about {queries} images for each image and norm",
        )

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest misclassified point of each walk."""
        import numpy as np

        def is_wrong(rows: NDArray[np.int64], images: Pixels) -> NDArray[np.bool_]:
            wrong: NDArray[np.bool_] = classifier.predict(images).argmax(axis=1) != batch.labels[rows]
            return wrong

        best = batch.pixels.copy()
        rows, points = self._start(batch, rng, norm, is_wrong)
        if not len(rows):
            return best
        clean = batch.pixels[rows]

        def is_wrong_at(at: NDArray[np.int64], images: Pixels) -> NDArray[np.bool_]:
            return is_wrong(rows[at], images)

        points = steps.to_boundary(points, clean, norm, lambda images: is_wrong(rows, images))
        best[rows] = points
        shortest = distance = image_norms(points - clean, norm)
        for number in range(1, self.iterations + 1):
            step = np.full(len(rows), steps.FIRST_PROBE_STEP) if number == 1 else steps.PROBE_STEP * distance
            noises = [steps.probe_noise(rng(batch.ids[row], f"{norm} jump {number}"), norm) for row in rows]
            normal = steps.boundary_normals(points, step, noises, self._evaluations(number), is_wrong_at)
            direction = np.sign(normal) if norm == "linf" else normal
            points = steps.jump(points, direction, distance / math.sqrt(number), is_wrong_at)
            points = steps.to_boundary(points, clean, norm, lambda images: is_wrong(rows, images))
            distance = image_norms(points - clean, norm)
            nearer = distance < shortest
            best[rows[nearer]] = points[nearer]
            shortest = np.minimum(shortest, distance)
        return best

    def _evaluations(self, jump: int) -> int:
        """Return the number of random steps for the normal of this jump."""
        return min(_MOST_EVALUATIONS, int(self.evaluations * math.sqrt(jump)))

    def _start(self, batch: Batch, rng: Randomness, norm: str, is_wrong: IsWrong) -> tuple[NDArray[np.int64], Pixels]:
        """Find misclassified random images; return the rows that have one, and these images.

        Noise of single pixels, as in the paper, and of larger tiles: some models give all fine noise one label.
        """
        import numpy as np

        starts = batch.pixels.copy()
        left = np.arange(len(batch))
        generators = [rng(image_id, f"{norm} start") for image_id in batch.ids]
        for trial in range(self.starts):
            if not len(left):
                break
            candidates = np.stack([_tiled_noise(generators[row], batch.pixels.shape[1:], trial) for row in left])
            wrong = is_wrong(left, candidates)
            starts[left[wrong]] = candidates[wrong]
            left = left[~wrong]
        found = np.setdiff1d(np.arange(len(batch)), left)
        return found, starts[found]


def _tiled_noise(generator: np.random.Generator, shape: tuple[int, ...], trial: int) -> Pixels:
    """Return noise of one grey level per tile of 1, 2, 4 or 8 pixels; of one number per feature for tabular data."""
    import numpy as np

    if len(shape) == 1:
        return generator.random(shape, dtype=np.float32)
    channels, height, width = shape
    side = min(2 ** (trial % 4), height, width)
    tiles = generator.random((channels, -(-height // side), -(-width // side)), dtype=np.float32)
    return tiles.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]
