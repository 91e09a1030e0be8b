"""Steps of HopSkipJump: bisection to the boundary, estimate of its normal, jump along the normal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Pixels

    IsWrong = Callable[[NDArray[np.int64], Pixels], NDArray[np.bool_]]
    """Whether the deployed model misclassifies images, (n,), from their row numbers and pixels."""
    Noise = Callable[[tuple[int, ...]], Pixels]
    """Random numbers of a shape."""


PROBE_STEP, FIRST_PROBE_STEP = 0.01, 0.1
"""Length of the random steps as a share of the distance, and of the first ones in pixels. The paper's share, 1 / number
of pixels, is below the float32 resolution of large images."""

_HALVINGS = 20
"""Largest number of bisection steps and of halvings of a jump: 2^-20 of the distance is the resolution of float32."""

_CHUNK_BYTES = 64 << 20
"""Size of the random steps in one query."""


def to_boundary(points: Pixels, clean: Pixels, norm: str, is_wrong: Callable[[Pixels], NDArray[np.bool_]]) -> Pixels:
    """Move misclassified images towards the clean ones as far as they stay misclassified, by bisection.

    In L2 along the straight line; in L-inf by shrinking the box around the clean image to which they are clipped.
    """
    import numpy as np

    low, high = np.zeros(len(points)), np.ones(len(points))
    delta = points - clean
    size = np.abs(delta).reshape(len(delta), -1).max(axis=1)
    column = (-1, *[1] * (delta.ndim - 1))
    result = points
    for _ in range(min(_HALVINGS, math.ceil(-math.log2(_tolerance(norm, clean[0].size))))):
        middle = (low + high) / 2
        share = middle.astype(np.float32).reshape(column)
        box = (middle * size).astype(np.float32).reshape(column)
        candidates = (clean + (share * delta if norm == "l2" else delta.clip(-box, box))).clip(0, 1)
        wrong = is_wrong(candidates)
        high, low = np.where(wrong, middle, high), np.where(wrong, low, middle)
        result = np.where(wrong.reshape(column), candidates, result)
    return result


def _tolerance(norm: str, pixels: int) -> float:
    """Return the distance to the boundary, as a share, at which random steps cross it about half of the time."""
    return PROBE_STEP / (math.sqrt(pixels) if norm == "l2" else pixels)


def boundary_normals(
    points: Pixels, step: NDArray[np.float64], noises: Sequence[Noise], count: int, is_wrong: IsWrong
) -> Pixels:
    """Estimate the unit normal of the boundary at each point, towards the wrong side.

    Args:
        points: (n, c, h, w) or (n, features), on the boundary.
        step: Length of the random steps at each point, (n,).
        noises: Source of random steps of each point.
        count: Number of random steps per point.
        is_wrong: Query of the deployed model; rows are numbers of points.
    """
    import numpy as np

    result = np.empty_like(points)
    chunk = max(1, _CHUNK_BYTES // (count * points[0].nbytes))
    for first in range(0, len(points), chunk):
        at = np.arange(first, min(first + chunk, len(points)))
        noise = np.stack([noises[i]((count, *points.shape[1:])) for i in at])
        noise *= step[at].astype(np.float32).reshape(-1, *[1] * points.ndim) / _lengths(noise, points.ndim - 1)
        candidates = (points[at][:, None] + noise).clip(0, 1)
        wrong = is_wrong(at.repeat(count), candidates.reshape(-1, *points.shape[1:])).reshape(len(at), count)
        signs = np.where(wrong, np.float32(1), np.float32(-1))
        # subtracting the mean reduces the variance; equal answers have no other information than their mean
        mixed = wrong.any(axis=1) & ~wrong.all(axis=1)
        weights = signs - np.where(mixed, signs.mean(axis=1), 0)[:, None].astype(np.float32)
        result[at] = np.einsum("nk,nk...->n...", weights, candidates - points[at][:, None], optimize=True)
    return result / _lengths(result, points.ndim - 1)


def probe_noise(generator: np.random.Generator, norm: str) -> Noise:
    """Return a source of random steps: normal for L2, uniform for L-inf."""
    import numpy as np

    if norm == "l2":
        return lambda shape: generator.standard_normal(shape, dtype=np.float32)
    return lambda shape: 2 * generator.random(shape, dtype=np.float32) - 1


def jump(points: Pixels, direction: Pixels, size: NDArray[np.float64], is_wrong: IsWrong) -> Pixels:
    """Step along the direction, halving the step until it ends on the wrong side; no step if none does."""
    import numpy as np

    result, left, length = points.copy(), np.arange(len(points)), size.astype(np.float32)
    for _ in range(_HALVINGS):
        candidates = (points[left] + length[left].reshape(-1, *[1] * (points.ndim - 1)) * direction[left]).clip(0, 1)
        wrong = is_wrong(left, candidates)
        result[left[wrong]] = candidates[wrong]
        left = left[~wrong]
        if not len(left):
            break
        length /= 2
    return result


def _lengths(images: NDArray[np.float32], axes: int) -> NDArray[np.float32]:
    """Return positive L2 norms over the last ``axes`` axes, which are kept."""
    import numpy as np

    size: NDArray[np.float32] = np.sqrt(np.square(images).sum(axis=tuple(range(-axes, 0)), keepdims=True))
    return np.maximum(size, np.float32(1e-12))
