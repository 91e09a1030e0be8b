"""Cells of a map to cover, and images with them covered, for ``bias.counterfactual-occlusion``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from auditor.probes.cells import covering, map_cells

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Classifier, Pixels
    from auditor.algorithms.masking import Fill


def strongest_and_random_cells(
    maps: NDArray[np.float64], share: float, generators: Sequence[np.random.Generator]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the indices of the cells with the highest attribution and of random others, (n, count) each.

    Args:
        maps: Mean attribution of each cell, (n, cells).
        share: Share of the cells, at most half of them and at least one.
        generators: Source of the random cells of each image.
    """
    import numpy as np

    cells = maps.shape[1]
    count = max(1, min(round(cells * share), cells // 2))
    order = np.argsort(-maps, axis=1, kind="stable")
    others = np.sort(order[:, count:], axis=1)
    control = [generator.permutation(rest)[:count] for generator, rest in zip(generators, others, strict=True)]
    return np.sort(order[:, :count], axis=1), np.sort(np.stack(control), axis=1)


def cover_cells(classifier: Classifier, images: Pixels, region: NDArray[Any], *, grid: int, fill: Fill) -> Pixels:
    """Return copies of the images with the cells ``region`` (n, count) of the grid covered."""
    import numpy as np

    cells = map_cells(classifier, grid)
    colour = np.broadcast_to(covering(classifier, images, fill), images.shape)
    covered: Pixels = images.copy()
    for i, numbers in enumerate(region):
        for cell in (cells[int(number)] for number in numbers):
            part: Any = (i, ..., *cell)
            covered[part] = colour[part]
    return covered
