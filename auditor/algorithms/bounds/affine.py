"""Affine operators: exact in the backward pass, enclosed by centre and radius in interval arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from auditor.algorithms.bounds.adjoints import adjoint_of
from auditor.algorithms.bounds.ball import Interval
from auditor.algorithms.bounds.node_function import Function
from auditor.algorithms.bounds.rounding import dot

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "Conv": ("W",),
    "ConvTranspose": ("W",),
    "Gemm": ("A", "B", "alpha"),
    "MatMul": ("A", "B"),
    "matmul_add": ("weight",),
    "Mul": ("A", "B"),
    "Div": ("A", "B"),
    "BatchNormalization": ("scale",),
}
"""Affine operators and the parameters that multiply their operand; at most one of these may depend on the image."""

PLAIN = {
    "Add",
    "AveragePool",
    "Concat",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "Identity",
    "Mean",
    "Neg",
    "Pad",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "Sum",
    "Transpose",
    "Unsqueeze",
}
"""Affine operators that only move, add and average their operands."""

FIXED: Mapping[str, tuple[str, ...]] = {
    "Gather": ("indices",),
    "BatchNormalization": ("scale", "B", "mean", "var"),
    "Conv": ("W", "B"),
    "Div": ("B",),
}
"""Parameters that must not depend on the image."""


class Affine:
    """An affine operator, which is its own relaxation."""

    def __init__(self, name: str, function: Function, like: Tensor) -> None:
        """Prepare the function of an operator; ``like`` has the type and device of the constants."""
        self.name = name
        self._function = function
        self._zeros = [like.new_zeros(shape) for shape in function.shapes]
        self._weights = WEIGHTS.get(name, ())
        self.at_zero: Tensor = function(*self._zeros)[None]
        """Value at operands of zero, (1, ...)."""
        self._origin = function(*self._zeros, weights=self._weights)[None]
        self._adjoint, self.terms = adjoint_of(name, function, self._zeros)

    def apply(self, *operands: Tensor) -> Tensor:
        """Return values (n, ...) of operands (n, ...)."""
        return torch.vmap(self._function)(*operands)

    def steep(self, *operands: Tensor) -> Tensor:
        """Return the sum of the absolute values of the products with non-negative operands (n, ...), (n, ...)."""
        total = torch.zeros_like(self._origin)
        for index, operand in enumerate(operands):
            others = [zero.expand(len(operand), *zero.shape) for zero in self._zeros]
            others[index] = operand
            total = total + (torch.vmap(self._with_magnitudes)(*others) - self._origin).abs()
        return total

    def squares(self, operand: Tensor) -> Tensor:
        """Return the sum of the squared products with the square roots of an operand (n, ...)."""

        def function(x: Tensor) -> Tensor:
            return self._function(x, weights=self._weights, power=2)

        origin = function(self._zeros[0])
        return (torch.vmap(function)(operand) - origin).clamp_min(0)

    def _with_magnitudes(self, *operands: Tensor) -> Tensor:
        return self._function(*operands, weights=self._weights)

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value."""
        centre = self.apply(*((low + high) / 2 for low, high in ends))
        radius = self.steep(*((high - low) / 2 for low, high in ends))
        return Interval(centre - radius, centre + radius)

    def contested(self, ends: Sequence[Interval]) -> list[Tensor | None]:
        """Return None for each operand: its range does not matter."""
        return [None] * len(ends)

    def magnitude(self, ends: Sequence[Interval]) -> Tensor:
        """Return a bound of the sum of the absolute values of all terms of the value, (n, ...)."""
        return self.steep(*(end.magnitude for end in ends)) + self.at_zero.abs()

    def back(self, slope: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rewrite linear functions (n, r, ...) of the value: constants (n, r) and functions of the operands."""
        back = self._adjoint(slope.flatten(0, 1))
        return dot(slope, self.at_zero), [part.unflatten(0, slope.shape[:2]) for part in back]
