"""Softmax, composed of exp, a sum, a reciprocal and a product.

The exponent is shifted by the largest upper end of the range, which cancels in the quotient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from auditor.algorithms.bounds.activations import Lines
from auditor.algorithms.bounds.affine import Affine
from auditor.algorithms.bounds.ball import Interval
from auditor.algorithms.bounds.bilinear import Product
from auditor.algorithms.bounds.node_function import ComposedFunction, NodeFunction
from auditor.algorithms.bounds.operation import Operation


def softmax(node: str, source: str, function: NodeFunction, like: Tensor) -> list[Operation]:
    """Return the operations of a softmax of the value ``source``; the last one has the name of the node."""
    axes, shape = _axes(function), function.shapes[0]

    def total(x: Tensor) -> Tensor:
        return x.sum(axes, keepdim=True)

    summed = total(like.new_zeros(shape)).shape
    powers, sums, inverse = f"{node}.exp", f"{node}.sum", f"{node}.reciprocal"
    return [
        Operation(powers, (source,), ShiftedExp(axes), shape),
        Operation(sums, (powers,), Affine("sum", ComposedFunction(total, [shape]), like), summed),
        Operation(inverse, (sums,), Reciprocal(), summed),
        Operation(node, (powers, inverse), Quotient("Mul", ComposedFunction(torch.mul, [shape, summed])), shape),
    ]


def _axes(function: NodeFunction) -> tuple[int, ...]:
    axis, rank = int(function.settings["axis"]), len(function.shapes[0])
    first = axis % rank
    # before opset 13, softmax runs over all dimensions from the axis on
    return (first,) if "__13" in function.name else tuple(range(first, rank))


class _Convex:
    """Rule of a convex function: a tangent is below it and the chord above it."""

    def contested(self, ends: Sequence[Interval]) -> list[Tensor]:
        """Return True (n, ...) for operands that are not constant."""
        return [ends[0].lower < ends[0].upper]


class ShiftedExp(_Convex):
    """Rule of exp(x - c) with the same constant c for all values of a softmax."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        # the first dimension is that of the images
        self._axes = tuple(axis + 1 for axis in axes)

    def _shift(self, end: Interval) -> Tensor:
        return end.upper.amax(self._axes, keepdim=True)

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value."""
        [end] = ends
        return Interval((end.lower - self._shift(end)).exp(), (end.upper - self._shift(end)).exp())

    def relax(self, ends: Sequence[Interval]) -> Lines:
        """Return the tangent at the middle of the range and the chord."""
        [end] = ends
        low, high = end.lower - self._shift(end), end.upper - self._shift(end)
        middle = (low + high) / 2
        lines = _tangent_and_chord(low, high, middle.exp(), middle.exp(), low.exp(), high.exp())
        return _moved(lines, self._shift(end))


class Reciprocal(_Convex):
    """Rule of 1 / x for positive x."""

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value."""
        return Interval(1 / ends[0].upper, 1 / ends[0].lower)

    def relax(self, ends: Sequence[Interval]) -> Lines:
        """Return the tangent at the middle of the range and the chord."""
        low, high = ends[0]
        middle = (low + high) / 2
        return _tangent_and_chord(low, high, 1 / middle, -1 / middle**2, 1 / low, 1 / high)


class Quotient(Product):
    """Rule of the last product, whose value is a share."""

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value."""
        wide = super().enclose(ends)
        # very wide ranges of the exponent overflow
        return Interval(wide.lower.nan_to_num(0).clamp(0, 1), wide.upper.nan_to_num(1).clamp(0, 1))


def _tangent_and_chord(  # noqa: PLR0917
    low: Tensor, high: Tensor, value: Tensor, slope: Tensor, at_low: Tensor, at_high: Tensor
) -> Lines:
    """Return the lines of a convex function with a value and a slope at the middle of its range, and values at ends."""
    middle, width = (low + high) / 2, high - low
    chord = torch.where(width > 0, (at_high - at_low) / width.clamp_min(1e-300), slope)
    # the larger of the two offsets, because the slope of a very narrow chord is inaccurate
    offset = torch.maximum(at_low - chord * low, at_high - chord * high)
    return Lines(low_slope=slope, low_offset=value - slope * middle, high_slope=chord, high_offset=offset)


def _moved(lines: Lines, shift: Tensor) -> Lines:
    """Return the lines of f(x - shift)."""
    return Lines(
        low_slope=lines.low_slope,
        low_offset=lines.low_offset - lines.low_slope * shift,
        high_slope=lines.high_slope,
        high_offset=lines.high_offset - lines.high_slope * shift,
    )
