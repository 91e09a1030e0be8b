"""Superpixels of an image, for ``explanations.lime``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def superpixels(pixels: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the index of each pixel's superpixel, (h, w), from 0: by SLIC, or cells for small images.

    ``pixels`` is one image (c, h, w), ``count`` the approximate number of superpixels.
    """
    import numpy as np

    from auditor.algorithms.masking import cells

    height, width = pixels.shape[1:]
    if min(height, width) >= 32:
        from skimage.segmentation import slic

        found = slic(pixels.transpose(1, 2, 0), n_segments=count, compactness=10, start_label=0, channel_axis=2)
        numbers: NDArray[Any] = np.unique(found, return_inverse=True)[1].reshape(height, width)
        return numbers
    numbers = np.zeros((height, width), dtype=np.int64)
    most = max(2, round(count**0.5))
    # cells of equal size if possible, because larger cells have larger effects
    even = [d for d in range((most + 1) // 2, most + 1) if height % d == 0 and width % d == 0]
    for number, cell in enumerate(cells(height, width, even[-1] if even else most)):
        numbers[cell.top : cell.bottom, cell.left : cell.right] = number
    return numbers
