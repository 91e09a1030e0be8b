"""The packaged images: crops of photographs that scikit-learn carries, for an audit without any data.

China, temple (photograph by Jonathan "ccc" on Flickr) and flower, dahlia (by dany13 on Flickr), both under CC BY 2.0.
The crops are cut when they are needed. They have no labels that a model could know.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Source

NOTE = (
    "No data was given: the audit ran on packaged photographs that have nothing to do with the model's task, with the"
    " model's own answers as reference labels. Accuracy and bias were not measured; give --data to measure them."
)
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_SIDES = (427, 320, 256, 192)
"""Sides of the square crops in pixels; the photographs are 427 pixels high and 640 wide."""


def source() -> Source:
    """48 crops: both photographs, four sides, six places."""
    from auditor.data.dataset import Source

    crops = [(name, side, place) for name in _PHOTOGRAPHS for side in _SIDES for place in range(6)]

    def read(index: int) -> tuple[bytes, NDArray[Any]]:
        name, side, place = crops[index]
        photograph = _photograph(name)
        height, width = photograph.shape[:2]
        top = (height - side) * (place % 2)
        left = (width - side) * (place // 2) // 2
        # a full-height crop has only one vertical place: mirrored, it is another image all the same
        cut = photograph[top : top + side, left : left + side]
        crop = cut[:, ::-1].copy() if side == height and place % 2 else cut.copy()
        return crop.tobytes(), crop

    return Source(
        path="packaged photographs",
        ids=[f"{name.removesuffix('.jpg')}-{side}-{place}" for name, side, place in crops],
        read=read,
        note=NOTE,
    )


@functools.cache
def _photograph(name: str) -> NDArray[Any]:
    from sklearn.datasets import load_sample_image

    photograph: NDArray[Any] = load_sample_image(name)
    return photograph
