"""The cells of an attribution map, and the model's predictions with cells covered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor.algorithms.masking import Block, Fill, cells, colours

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier

_CHUNK = 256 << 20
"""Bytes of covered images kept in memory at once."""


def map_cells(classifier: Classifier, grid: int) -> list[Block]:
    """Return the cells of a map: at most ``grid`` x ``grid`` blocks of an image, or every feature of tabular data."""
    _, height, width = classifier.shape
    return cells(height, width, width if classifier.input_kind == "rows" else grid)


def cell_means(pixels: NDArray[np.float64], grid: Sequence[Block]) -> NDArray[np.float64]:
    """Average pixel maps (n, h, w) over cells, (n, cells)."""
    import numpy as np

    return np.stack([pixels[:, c.top : c.bottom, c.left : c.right].mean(axis=(1, 2)) for c in grid], axis=1)


def covering(classifier: Classifier, images: Pixels, fill: Fill) -> NDArray[np.float32]:
    """Return the content of covered parts of images (n, c, h, w), to be broadcast.

    For images a colour; for tabular data the mean of each feature over the background rows.
    """
    import numpy as np

    if classifier.input_kind == "images":
        return colours(images, fill)
    mean: NDArray[np.float32] = background(classifier).mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.broadcast_to(mean, (len(images), 1, 1, len(mean)))


def background(classifier: Classifier) -> NDArray[np.float32]:
    """Return the background rows of tabular data, (m, features) in [0, 1]."""
    from auditor.model.tabular import RowPreprocessing

    preprocessing = classifier.preprocessing
    assert isinstance(preprocessing, RowPreprocessing)
    return preprocessing.background


def covered_probability(
    classifier: Classifier, batch: Batch, grid: Sequence[Block], hidden: NDArray[np.bool_], fill: Fill
) -> NDArray[np.float32]:
    """Return the probability of each clean prediction with sets of cells covered, (n, sets).

    ``hidden`` (n, sets, cells) is True for covered cells.
    """
    import numpy as np

    n, sets, _ = hidden.shape
    cell_of = _cell_indices(classifier, grid)
    colour = covering(classifier, batch.pixels, fill)
    result = np.empty((n, sets), dtype=np.float32)
    step = max(1, _CHUNK // max(1, sets * batch.pixels[:1].nbytes))
    for start in range(0, n, step):
        part = slice(start, min(n, start + step))
        masks = hidden[part][:, :, cell_of][:, :, None]
        covered = np.where(masks, colour[part, None], batch.pixels[part, None])
        probabilities = classifier.predict(covered.reshape(-1, *classifier.shape)).reshape(masks.shape[0], sets, -1)
        result[part] = np.take_along_axis(probabilities, batch.predictions[part, None, None], axis=2)[..., 0]
    return result


def _cell_indices(classifier: Classifier, grid: Sequence[Block]) -> NDArray[np.int64]:
    """Return the index of the cell of each pixel, (h, w)."""
    import numpy as np

    indices = np.empty(classifier.shape[1:], dtype=np.int64)
    for number, cell in enumerate(grid):
        indices[cell.top : cell.bottom, cell.left : cell.right] = number
    return indices
