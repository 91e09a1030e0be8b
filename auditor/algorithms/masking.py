"""Blocks that cover parts of images: positions and fill colours. Shared by the occlusion probes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels

Fill = Literal["white", "black", "grey", "mean"]
FILLS: tuple[Fill, ...] = ("white", "black", "grey", "mean")


class Block(NamedTuple):
    """A rectangle in pixels: rows ``top`` to ``bottom``, columns ``left`` to ``right``, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def overlaps(self, other: Block) -> bool:
        """Return True if the two share a pixel."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )


def sliding(height: int, width: int, share: float, steps: int) -> list[Block]:
    """Return blocks with ``share`` of each side, at ``steps`` x ``steps`` positions from edge to edge, row by row."""
    tall, wide = max(1, round(height * share)), max(1, round(width * share))
    return [
        Block(top, top + tall, left, left + wide)
        for top in _positions(height - tall, steps)
        for left in _positions(width - wide, steps)
    ]


def cells(height: int, width: int, count: int) -> list[Block]:
    """Return a grid of at most ``count`` x ``count`` cells that covers the image without overlap, row by row."""
    rows, columns = _cuts(height, count), _cuts(width, count)
    return [Block(top, bottom, left, right) for top, bottom in pairwise(rows) for left, right in pairwise(columns)]


def cover(images: Pixels, blocks: Sequence[Block], fill: Fill) -> Pixels:
    """Return a copy of ``images`` (n, c, h, w) with the same blocks covered in each."""
    covered = images.copy()
    colour = colours(images, fill)
    for block in blocks:
        covered[:, :, block.top : block.bottom, block.left : block.right] = colour
    return covered


def colours(images: Pixels, fill: Fill) -> NDArray[np.float32]:
    """Return the fill colour of blocks, (n, c, 1, 1): "mean" is each image's own mean colour."""
    import numpy as np

    if fill == "mean":
        mean: NDArray[np.float32] = images.mean(axis=(2, 3), keepdims=True)
        return mean
    value = {"white": 1.0, "black": 0.0, "grey": 0.5}[fill]
    return np.full((*images.shape[:2], 1, 1), value, dtype=np.float32)


def _positions(room: int, steps: int) -> list[int]:
    return sorted({round(room * i / max(1, steps - 1)) for i in range(steps)})


def _cuts(side: int, count: int) -> list[int]:
    return sorted({round(side * i / count) for i in range(count + 1)})
