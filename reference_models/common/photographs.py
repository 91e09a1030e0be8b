"""Photographs that installed packages contain: material for pictures of 224 pixels without a download.

From scikit-image (public domain or CC0): an astronaut, a cameraman, a cat, a cup of coffee and a rocket.
From scikit-learn (CC BY 2.0): a temple, photograph by Jonathan "ccc" on Flickr, and a dahlia, by dany13 on Flickr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SCIKIT_IMAGE = {
    "astronaut": "astronaut.png",
    "cameraman": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}
_SCIKIT_LEARN = {"dahlia": "flower.jpg", "temple": "china.jpg"}
NAMES = tuple(sorted([*_SCIKIT_IMAGE, *_SCIKIT_LEARN]))


class Crop(NamedTuple):
    """A square part of a photograph."""

    photograph: str
    pixels: NDArray[np.uint8]
    """(side, side, 3)."""


def photograph(name: str) -> Image.Image:
    """Return a photograph in RGB."""
    import skimage.data
    import sklearn.datasets

    if name in _SCIKIT_IMAGE:
        path = Path(skimage.data.__file__).parent / _SCIKIT_IMAGE[name]
    else:
        path = Path(sklearn.datasets.__file__).parent / "images" / _SCIKIT_LEARN[name]
    with Image.open(path) as picture:
        return picture.convert("RGB")


def crops(
    side: int,
    *,
    per_photograph: int,
    seed: int,
    smallest: float = 0.5,
    largest: float = 1.0,
    half: Literal["left", "right"] | None = None,
) -> list[Crop]:
    """Return random square crops of every photograph, or of one half of it, scaled to ``side`` pixels.

    The crop's side is between ``smallest`` and ``largest``, as a share of the shorter side of the photograph or half.
    """
    rng = np.random.default_rng(seed)
    found = []
    for name in NAMES:
        picture = photograph(name)
        if half is not None:
            first = 0 if half == "left" else picture.width - picture.width // 2
            picture = picture.crop((first, 0, first + picture.width // 2, picture.height))
        for _ in range(per_photograph):
            length = int(rng.uniform(smallest, largest) * min(picture.size))
            left, top = (int(rng.integers(extent - length + 1)) for extent in picture.size)
            part = picture.crop((left, top, left + length, top + length))
            found.append(Crop(name, np.asarray(part.resize((side, side), Image.Resampling.BICUBIC))))
    return found
