"""Rotation and translation of images, for ``attacks.spatial``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from auditor import Pixels


class Move(NamedTuple):
    """A rotation in degrees, counter-clockwise, and a translation down and to the right in shares of the side."""

    angle: float
    down: float
    right: float


def moved(images: Pixels, move: Move) -> Pixels:
    """Rotate images (n, c, h, w) about their centre, then translate them; bilinear, black outside the image."""
    import torch

    if move == Move(0.0, 0.0, 0.0):
        return images
    height, width = images.shape[2:]
    cos, sin = math.cos(math.radians(move.angle)), math.sin(math.radians(move.angle))
    # source of each output pixel in coordinates from -1 to 1; the angle refers to pixels
    turn = torch.tensor([[cos, -sin * height / width], [sin * width / height, cos]], dtype=torch.float64)
    shift = turn @ turn.new_tensor([[2 * move.right], [2 * move.down]])
    transform = torch.cat([turn, -shift], dim=1)[None].float()
    grid = torch.nn.functional.affine_grid(transform, [1, 1, height, width], align_corners=False)
    sampled = torch.nn.functional.grid_sample(
        torch.from_numpy(images),
        grid.expand(len(images), -1, -1, -1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    result: Pixels = sampled.clamp(0, 1).numpy()
    return result
