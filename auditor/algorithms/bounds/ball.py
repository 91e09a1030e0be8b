"""Ranges of values, and the set of reachable pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from auditor.algorithms.bounds.rounding import dot, length


class Interval(NamedTuple):
    """Range of the values of a node, (n, ...) each, in double precision."""

    lower: Tensor
    upper: Tensor

    @property
    def magnitude(self) -> Tensor:
        """Largest absolute value, (n, ...)."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def take(self, rows: Tensor) -> Interval:
        """Return the ranges of some images."""
        return Interval(self.lower[rows], self.upper[rows])

    def where(self, valid: Tensor) -> Interval:
        """Return the ranges of those images where ``valid`` (n,) is True, and infinite ones of the others."""
        valid = valid.reshape(-1, *[1] * (self.lower.dim() - 1))
        return Interval(torch.where(valid, self.lower, -torch.inf), torch.where(valid, self.upper, torch.inf))

    def intersect(self, other: Interval) -> Interval:
        """Return the values in both; where rounding lets two valid ranges miss each other, the point between them."""
        low, high = torch.fmax(self.lower, other.lower), torch.fmin(self.upper, other.upper)
        middle = (low + high) / 2
        return Interval(torch.minimum(low, middle), torch.maximum(high, middle))


class Ball(NamedTuple):
    """Reachable pixels of n images: at most ``epsilon`` away in ``norm`` ("linf" or "l2"), and in [0, 1]."""

    centre: Tensor
    """(n, ...), in double precision."""
    epsilon: Tensor
    """(n,)"""
    norm: str

    @property
    def box(self) -> Interval:
        """Smallest box around the ball; an L2 ball is contained in the L-infinity ball of its radius."""
        size = self.epsilon.reshape(-1, *[1] * (self.centre.dim() - 1))
        return Interval((self.centre - size).clamp(0, 1), (self.centre + size).clamp(0, 1))

    def take(self, rows: Tensor) -> Ball:
        """Return the balls of some images."""
        return Ball(self.centre[rows], self.epsilon[rows], self.norm)

    def smallest(self, slope: Tensor, error: float = 0.0) -> Tensor:
        """Return a lower bound (n, r) of linear functions (n, r, ...) over the ball; exact in L-infinity.

        ``error`` times a bound of the sum of the absolute values of the terms is subtracted.
        """
        low, high = self.box
        sizes = slope.abs()
        bound = dot(slope, (low + high) / 2) - dot(sizes, (high - low) / 2)
        if self.norm == "l2":
            bound = torch.maximum(bound, dot(slope, self.centre) - self.epsilon[:, None] * length(slope))
        return bound - error * dot(sizes, high) if error else bound
