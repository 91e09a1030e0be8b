"""The cells of an attribution map, and the model's predictions with cells covered.

A cell is a region of the axes of a map: a block of an image, or one feature of tabular data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor.algorithms.masking import Fill, cells, colours

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier

Cell = tuple[slice, ...]
"""Index of a cell in the last axes of a map or of the inputs: (rows, columns), or (feature,)."""

_CHUNK = 256 << 20
"""Bytes of covered images kept in memory at once."""


def map_shape(classifier: Classifier) -> tuple[int, ...]:
    """Return the shape of a map: (h, w) of an image, or (features,) of tabular data."""
    return classifier.shape if classifier.input_kind == "rows" else classifier.shape[1:]


def map_cells(classifier: Classifier, grid: int) -> list[Cell]:
    """Return the cells of a map: at most ``grid`` x ``grid`` blocks of an image, or every feature of tabular data."""
    if classifier.input_kind == "rows":
        return [(slice(feature, feature + 1),) for feature in range(classifier.shape[0])]
    height, width = map_shape(classifier)
    return [(slice(c.top, c.bottom), slice(c.left, c.right)) for c in cells(height, width, grid)]


def cell_means(pixels: NDArray[np.float64], grid: Sequence[Cell]) -> NDArray[np.float64]:
    """Average maps (n, h, w) or (n, features) over cells, (n, cells)."""
    import numpy as np

    axes = tuple(range(1, pixels.ndim))
    return np.stack([pixels[(slice(None), *cell)].mean(axis=axes) for cell in grid], axis=1)


def covering(classifier: Classifier, images: Pixels, fill: Fill) -> NDArray[np.float32]:
    """Return the content of covered parts, to be broadcast to the inputs.

    For images (n, c, h, w) a colour; for tabular data (n, features) the mean of each feature over the background rows.
    """
    import numpy as np

    if classifier.input_kind == "images":
        return colours(images, fill)
    mean: NDArray[np.float32] = background(classifier).mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.broadcast_to(mean, (len(images), len(mean)))


def background(classifier: Classifier) -> NDArray[np.float32]:
    """Return the background rows of tabular data, (m, features) in [0, 1]."""
    from auditor.model.tabular import TabularPreprocessing

    preprocessing = classifier.preprocessing
    assert isinstance(preprocessing, TabularPreprocessing)
    return preprocessing.background


def covered_probability(
    classifier: Classifier, batch: Batch, grid: Sequence[Cell], hidden: NDArray[np.bool_], fill: Fill
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
        masks = hidden[part][:, :, cell_of]
        if classifier.input_kind == "images":
            # all channels are covered
            masks = masks[:, :, None]
        covered = np.where(masks, colour[part, None], batch.pixels[part, None])
        probabilities = classifier.predict(covered.reshape(-1, *classifier.shape)).reshape(masks.shape[0], sets, -1)
        result[part] = np.take_along_axis(probabilities, batch.predictions[part, None, None], axis=2)[..., 0]
    return result


def _cell_indices(classifier: Classifier, grid: Sequence[Cell]) -> NDArray[np.int64]:
    """Return the index of the cell of each pixel, (h, w), or of each feature, (features,)."""
    import numpy as np

    indices = np.empty(map_shape(classifier), dtype=np.int64)
    for number, cell in enumerate(grid):
        indices[cell] = number
    return indices
