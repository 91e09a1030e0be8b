"""Values that are affine in the pixels, because no activation precedes them: their L2 slopes give exact ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.algorithms.bounds.affine import Affine
from auditor.algorithms.bounds.ball import Ball, Interval

_PRODUCTS = {"Conv", "Gemm", "MatMul", "matmul_add"}

_KEEPS = {
    "Add",
    "BatchNormalization",
    "Div",
    "Dropout",
    "Flatten",
    "Identity",
    "Mul",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "preprocess",
}
"""Affine operators with one operand whose elements depend on one element of it."""


class PixelAffine(NamedTuple):
    """A value that is affine in the pixels."""

    centre: Tensor
    """Value at the image, (n, ...)."""
    length: Tensor
    """Upper bound of the L2 length of its slope in pixels, (1, ...)."""
    single: bool
    """True if each element depends on one pixel only, and no two on the same."""
    exact: bool
    """True if ``length`` is the length itself."""

    def within(self, ball: Ball) -> Interval:
        """Return the range over an L2 ball: the distance from the centre is at most epsilon times the length."""
        size = ball.epsilon.reshape(-1, *[1] * (self.centre.dim() - 1)) * self.length
        return Interval(self.centre - size, self.centre + size)


def follow(rule: Affine, operands: Sequence[PixelAffine]) -> PixelAffine:
    """Return the value of an affine operator of such values."""
    first = operands[0]
    centre = rule.apply(*(operand.centre for operand in operands))
    if rule.name in _PRODUCTS and first.single:
        # no two operands share a pixel, so the squared lengths add up
        return PixelAffine(centre, rule.squares(first.length**2).sqrt(), single=False, exact=True)
    length = rule.steep(*(operand.length for operand in operands))
    keeps = len(operands) == 1 and rule.name in _KEEPS
    single = first.single and keeps and length.numel() <= first.length.numel()
    return PixelAffine(centre, length, single, exact=first.exact and keeps)


def of_pixels(ball: Ball) -> PixelAffine:
    """Return the pixels as a function of themselves."""
    return PixelAffine(ball.centre, torch.ones_like(ball.centre[:1]), single=True, exact=True)
