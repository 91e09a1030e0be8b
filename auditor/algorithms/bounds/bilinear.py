"""Products of two values that both depend on the image, and softmax, which is composed of them.

With middles a, b and half widths r, s of the ranges of x and y, x y = b x + a y - a b + (x - a)(y - b), and the last
term is at most r s in absolute value. These are the means of the two planes below and of the two above the product
(McCormick 1976, Mathematical Programming 10). They hold for dependent values as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.algorithms.bounds.ball import Interval
from auditor.algorithms.bounds.node_function import Function
from auditor.algorithms.bounds.rounding import dot


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Relaxation of a product: its linearisation at the middles of the ranges, up to an error."""

    function: Function
    middles: tuple[Tensor, Tensor]
    value: Tensor
    """Product of the middles, (n, ...)."""
    error: Tensor
    """(n, ...)"""
    terms: int

    def to(self, dtype: torch.dtype) -> Planes:
        """Return the relaxation in another floating-point type."""
        one, other = (middle.to(dtype) for middle in self.middles)
        value, error = self.value.to(dtype), self.error.to(dtype)
        return Planes(function=self.function, middles=(one, other), value=value, error=error, terms=self.terms)

    def take(self, rows: Tensor) -> Planes:
        """Return the relaxation of some images."""
        one, other = (middle[rows] for middle in self.middles)
        value, error = self.value[rows], self.error[rows]
        return Planes(function=self.function, middles=(one, other), value=value, error=error, terms=self.terms)

    def magnitude(self, ends: Sequence[Interval]) -> Tensor:
        """Return a bound of the sum of the absolute values of the terms, (n, ...)."""
        one, other = (end.magnitude for end in ends)
        return 3 * torch.vmap(self.function)(one, other)

    def back(self, slope: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rewrite linear functions (n, r, ...) of the value: constants (n, r) and functions of the operands."""

        def adjoint(one: Tensor, other: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            back = torch.func.vjp(self.function, one, other)[1]
            return torch.vmap(back)(rows)  # type: ignore[no-any-return]

        parts = torch.vmap(adjoint)(*self.middles, slope)
        return -dot(slope, self.value) - dot(slope.abs(), self.error), list(parts)


class Product:
    """Rule of a bilinear operator: Mul or MatMul of two values that depend on the image."""

    def __init__(self, name: str, function: Function) -> None:
        self._function = function
        self._name = name

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value."""
        (a, b), (r, s) = _middles(ends), _half_widths(ends)
        product = torch.vmap(self._function)
        radius = product(a.abs(), s) + product(r, b.abs()) + product(r, s)
        return Interval(product(a, b) - radius, product(a, b) + radius)

    def contested(self, ends: Sequence[Interval]) -> list[Tensor]:
        """Return True (n, ...) for operands that are not constant."""
        return [end.lower < end.upper for end in ends]

    def relax(self, ends: Sequence[Interval]) -> Planes:
        """Return the linearisation at the middles."""
        product = torch.vmap(self._function)
        middles = _middles(ends)
        value = product(*middles)
        return Planes(
            function=self._function,
            middles=middles,
            value=value,
            error=product(*_half_widths(ends)),
            terms=self._terms(value[0]) + 3,
        )

    def _terms(self, value: Tensor) -> int:
        """Return how many products belong to one element of an operand, at most."""
        if self._name == "MatMul":
            batches = [math.prod(shape[:-2]) for shape in self._function.shapes]
            return math.prod(value.shape[:-2]) // min(batches) * max(value.shape[-2:])
        return value.numel() // min(math.prod(shape) for shape in self._function.shapes)


def _middles(ends: Sequence[Interval]) -> tuple[Tensor, Tensor]:
    one, other = ((low + high) / 2 for low, high in ends)
    return one, other


def _half_widths(ends: Sequence[Interval]) -> tuple[Tensor, Tensor]:
    one, other = ((high - low) / 2 for low, high in ends)
    return one, other
