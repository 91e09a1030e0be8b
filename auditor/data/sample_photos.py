"""The packaged images: crops of photographs from scikit-learn, for an audit without data.

China, temple (photograph by Jonathan "ccc" on Flickr) and flower, dahlia (by dany13 on Flickr), both under CC BY 2.0.
The crops are made when they are needed. They have no labels.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels, Source
    from auditor.data.resizing import Resizing

NOTE = (
    "No data was given: the audit ran on packaged photographs that are unrelated to the model's task, with the model's"
    " own predictions as reference labels. Accuracy and bias were not measured; give --data to measure them."
)
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_SIDES = (427, 320, 256, 192)
"""Sides of the square crops in pixels; the photographs are 427 pixels high and 640 wide."""


def source() -> Source:
    """Return 48 crops: two photographs, four sizes, six positions."""
    from auditor.data.dataset import Source

    crops = [(name, side, place) for name in _PHOTOGRAPHS for side in _SIDES for place in range(6)]

    def read(index: int) -> tuple[bytes, NDArray[Any]]:
        name, side, place = crops[index]
        photograph = _photograph(name)
        height, width = photograph.shape[:2]
        top = (height - side) * (place % 2)
        left = (width - side) * (place // 2) // 2
        # a full-height crop has only one vertical position; its mirror image is the second one
        cut = photograph[top : top + side, left : left + side]
        crop = cut[:, ::-1].copy() if side == height and place % 2 else cut.copy()
        return crop.tobytes(), crop

    return Source(
        path="packaged photographs",
        ids=[f"{name.removesuffix('.jpg')}-{side}-{place}" for name, side, place in crops],
        read=read,
        note=NOTE,
    )


@functools.lru_cache(maxsize=4)
def _crops(shape: tuple[int, ...], resizing: Resizing) -> Pixels:
    """Return all crops and their mirror images, for several audits in one process."""
    import numpy as np

    from auditor.data.dataset import Images

    images = Images(source(), shape=shape, resizing=resizing)
    crops = images.pixels(images.ids)
    return np.concatenate([crops, crops[..., ::-1]])


def pixels(n: int, shape: tuple[int, ...], resizing: Resizing) -> Pixels:
    """Return ``n`` crops at the input size of a model, (n, c, h, w) in [0, 1]; after all 48, their mirror images."""
    return _crops(shape, resizing)[:n].copy()


@functools.cache
def _photograph(name: str) -> NDArray[Any]:
    import numpy as np
    from PIL import Image

    # not load_sample_image: importing scikit-learn takes longer than everything else here
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    with Image.open(Path(spec.submodule_search_locations[0], "datasets", "images", name)) as photograph:
        return np.asarray(photograph)
