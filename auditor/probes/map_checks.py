"""Measure how faithful and how stable attribution maps are, image by image.

Deletion and insertion curves against a random order (Petsiuk, Das and Saenko 2018, arXiv:1806.07421); infidelity and
max-sensitivity (Yeh et al. 2019, arXiv:1901.09392).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor.algorithms.masking import Fill
from auditor.probes.base import Randomness
from auditor.probes.cells import Cell, covered_probability
from auditor.probes.grading import infidelity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier

_RADIUS = 0.02
"""Half width of the uniform noise of max-sensitivity; captum's default."""


@dataclass(frozen=True)
class MapChecks:
    """The images, maps and settings that the checks share."""

    classifier: Classifier
    batch: Batch
    rng: Randomness
    grid: Sequence[Cell]
    maps: NDArray[np.float64]
    """(n, cells)"""
    fill: Fill

    def removal(self, steps: int, orders: int) -> dict[str, NDArray[np.float32]]:
        """Return deletion and insertion curves in the map's order and averaged over random orders, (n, steps + 1)."""
        import numpy as np

        by_map = np.argsort(-self.maps, axis=1, kind="stable")
        shuffled = [
            np.stack([self.rng(i, f"order {k}").permutation(len(self.grid)) for i in self.batch.ids])
            for k in range(orders)
        ]
        curves: dict[str, NDArray[np.float32]] = {}
        for kind, reveal in (("deletion", False), ("insertion", True)):
            curves[kind] = self._curve(by_map, steps, reveal=reveal)
            random = [self._curve(order, steps, reveal=reveal) for order in shuffled]
            curves[f"{kind}_random"] = np.mean(random, axis=0)
        return curves

    def _curve(self, order: NDArray[np.int64], steps: int, *, reveal: bool) -> NDArray[np.float32]:
        """Return the predicted class's probability after 0 to ``steps`` equal shares of the cells, (n, steps + 1)."""
        import numpy as np

        rank = np.argsort(order, axis=1)
        counts = [round(len(self.grid) * step / steps) for step in range(steps + 1)]
        hidden = np.stack([(rank >= k) if reveal else (rank < k) for k in counts], axis=1)
        return covered_probability(self.classifier, self.batch, self.grid, hidden, self.fill)

    def infidelity(self, subsets: int) -> NDArray[np.float64]:
        """Return the share of the score drops under random covered sets that the map does not explain, (n,) in [0, 1].

        Yeh et al. 2019, definition 2.1. The map is scaled by the best factor (their section 3) and the result divided
        by the mean square of the drop, so that methods of any scale are comparable. NaN for images without any drop.
        """
        import numpy as np

        ids = self.batch.ids
        hidden = np.stack([self.rng(i, "subsets").random((subsets, len(self.grid))) < 0.5 for i in ids])
        before = self.batch.probabilities[np.arange(len(ids)), self.batch.predictions]
        after = covered_probability(self.classifier, self.batch, self.grid, hidden, self.fill)
        drop = before[:, None] - after.astype(np.float64)
        predicted = np.einsum("nsc,nc->ns", hidden.astype(np.float64), self.maps)
        return infidelity(predicted, drop.astype(np.float64))

    def sensitivity(self, attribute: Callable[[Batch], NDArray[np.float64]], neighbours: int) -> NDArray[np.float64]:
        """Return the largest relative change of the map under small noise, (n,) (Yeh et al. 2019, definition 2.3).

        ``attribute`` returns maps (n, cells).
        """
        import numpy as np

        largest = np.zeros(len(self.batch))
        length = np.linalg.norm(self.maps, axis=1)
        for k in range(neighbours):
            noise = np.stack(
                [
                    self.rng(i, f"neighbour {k}").uniform(-_RADIUS, _RADIUS, self.classifier.shape)
                    for i in self.batch.ids
                ]
            )
            # the clean predictions stay: they are explained
            noisy = replace(self.batch, pixels=np.clip(self.batch.pixels + noise, 0, 1).astype(np.float32))
            change = np.linalg.norm(attribute(noisy) - self.maps, axis=1)
            largest = np.maximum(largest, np.divide(change, length, out=np.zeros_like(change), where=length > 0))
        return largest


class Reseeded(Randomness):
    """Random numbers that are independent of those of ``rng`` for the same image."""

    def __init__(self, rng: Randomness) -> None:
        """Derive from ``rng``."""
        self._rng = rng

    def __call__(self, image_id: str, purpose: str = "") -> np.random.Generator:
        """Return a generator for one image and purpose."""
        return self._rng(image_id, f"again {purpose}")


def attribution_in_mask(
    pixels: NDArray[np.float64], masks: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of positive attribution inside the masks and the masks' share of the image, (n,) each.

    ``pixels`` and ``masks`` are (n, h, w). NaN for images without a mask and for maps without positive attribution.
    """
    import numpy as np

    positive = np.clip(pixels, 0, None)
    total = positive.sum(axis=(1, 2))
    inside = (positive * masks).sum(axis=(1, 2))
    share: NDArray[np.float64] = np.divide(inside, total, out=np.full_like(total, np.nan), where=total > 0)
    return share, masks.mean(axis=(1, 2), dtype=np.float64)
