"""Gradient descent without gradients: slopes estimated from the scores at random pairs of points.

SPSA (Spall 1992; as an attack Uesato et al. 2018, arXiv:1802.05666, section 4): for random signs v the slope along v is
(f(x + d v) - f(x - d v)) / 2d, and the mean of slope times v estimates the gradient. It needs no copy of the model,
sees through activations that are flat almost everywhere, and averages the noise of a randomised model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels

Margins = Callable[["Pixels", "NDArray[np.int64]"], "NDArray[np.float64]"]
"""Margins (m,) of images (m, c, h, w), each that of the image with this row; positive for a misclassified one."""


def spsa(
    margins: Margins,
    clean: Pixels,
    *,
    epsilon: float,
    iterations: int,
    pairs: int,
    draws: list[np.random.Generator],
) -> Pixels:
    """Return the visited images (n, c, h, w) with the largest margins, within ``epsilon`` in L-infinity and in [0, 1].

    Args:
        margins: The deployed model.
        clean: Images (n, c, h, w).
        epsilon: Radius in pixels from 0 to 1.
        iterations: Number of steps; a step costs 2 ``pairs`` + 1 queries of an image.
        pairs: Random pairs of points for a slope, half an epsilon from the image.
        draws: Randomness of each image.
    """
    import numpy as np

    x, best = clean.copy(), clean.copy()
    low, high = (clean - np.float32(epsilon)).clip(0, 1), (clean + np.float32(epsilon)).clip(0, 1)
    rows = np.arange(len(clean))
    largest, memory = margins(clean, rows), np.zeros_like(clean)
    reach, both = np.float32(epsilon / 2), np.array([-1, 1], dtype=np.float32)
    for iteration in range(iterations):
        signs = np.stack([draw.choice(both, (pairs, *clean.shape[1:])) for draw in draws])
        points = np.stack([x[:, None] + reach * signs, x[:, None] - reach * signs]).clip(0, 1)
        flat = points.reshape(-1, *clean.shape[1:])
        found = margins(flat, np.tile(np.repeat(rows, pairs), 2)).reshape(2, len(clean), pairs)
        weights = (found[0] - found[1]).astype(np.float32).reshape(*signs.shape[:2], *[1] * (clean.ndim - 1))
        slope = (weights * signs).mean(axis=1)
        # the sum over the steps averages over more pairs
        memory = np.float32(0.75) * memory + slope
        step = np.float32(epsilon * max(0.1, 0.5 * (1 - iteration / iterations)))
        x = (x + step * np.sign(memory)).clip(low, high)
        now = margins(x, rows)
        better = now > largest
        best[better], largest[better] = x[better], now[better]
    return best
