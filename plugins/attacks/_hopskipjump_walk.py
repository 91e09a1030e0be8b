"""The walk of HopSkipJump: from a misclassified random image along the class boundary towards the clean one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor.algorithms.norms import image_norms
from auditor.plugins.attacks import _hopskipjump_steps as steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness
    from auditor.plugins.attacks._hopskipjump_steps import IsWrong


def walk(
    classifier: Classifier, batch: Batch, rng: Randomness, norm: str, *, jumps: Sequence[int], starts: int
) -> Pixels:
    """Return the nearest misclassified point of each walk, (n, c, h, w); the clean image if there is no start.

    Args:
        classifier: The deployed model is queried for labels.
        batch: The clean images, or rows of tabular data (n, features).
        rng: Source of random images and random steps.
        norm: "l2" or "linf".
        jumps: For each jump the number of random steps for the normal.
        starts: Random images that are tried as a start.
    """
    import numpy as np

    def is_wrong(rows: NDArray[np.int64], images: Pixels) -> NDArray[np.bool_]:
        wrong: NDArray[np.bool_] = classifier.predict(images).argmax(axis=1) != batch.labels[rows]
        return wrong

    best = batch.pixels.copy()
    rows, points = _start(batch, rng, norm, starts, is_wrong)
    if not len(rows):
        return best
    clean = batch.pixels[rows]

    def is_wrong_at(at: NDArray[np.int64], images: Pixels) -> NDArray[np.bool_]:
        return is_wrong(rows[at], images)

    points = steps.to_boundary(points, clean, norm, lambda images: is_wrong(rows, images))
    best[rows] = points
    shortest = distance = image_norms(points - clean, norm)
    for number, evaluations in enumerate(jumps, start=1):
        step = np.full(len(rows), steps.FIRST_PROBE_STEP) if number == 1 else steps.PROBE_STEP * distance
        noises = [steps.probe_noise(rng(batch.ids[row], f"{norm} jump {number}"), norm) for row in rows]
        normal = steps.boundary_normals(points, step, noises, evaluations, is_wrong_at)
        direction = np.sign(normal) if norm == "linf" else normal
        points = steps.jump(points, direction, distance / math.sqrt(number), is_wrong_at)
        points = steps.to_boundary(points, clean, norm, lambda images: is_wrong(rows, images))
        distance = image_norms(points - clean, norm)
        nearer = distance < shortest
        best[rows[nearer]] = points[nearer]
        shortest = np.minimum(shortest, distance)
    return best


def _start(
    batch: Batch, rng: Randomness, norm: str, trials: int, is_wrong: IsWrong
) -> tuple[NDArray[np.int64], Pixels]:
    """Find misclassified random images; return the rows that have one, and these images.

    Noise of single pixels, as in the paper, and of larger tiles: some models give all fine noise one label.
    """
    import numpy as np

    starts = batch.pixels.copy()
    left = np.arange(len(batch))
    generators = [rng(image_id, f"{norm} start") for image_id in batch.ids]
    for trial in range(trials):
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
