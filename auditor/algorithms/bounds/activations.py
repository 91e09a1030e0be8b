"""Elementwise activations, enclosed between two lines over the range of their operand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from auditor.algorithms.bounds.ball import Interval
from auditor.algorithms.bounds.node_function import NodeFunction
from auditor.algorithms.bounds.rounding import dot
from auditor.errors import NotApplicable


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Relaxation of an elementwise function: slope and offset of the line below it and of the line above it."""

    low_slope: Tensor
    low_offset: Tensor
    high_slope: Tensor
    high_offset: Tensor
    free: tuple[Tensor, float] | None = None
    """Elements whose lower line may have any slope between a number and 1 and no offset: (n, ...), the number."""
    terms: int = 8

    def to(self, dtype: torch.dtype) -> Lines:
        """Return the lines in another floating-point type."""
        return Lines(
            low_slope=self.low_slope.to(dtype),
            low_offset=self.low_offset.to(dtype),
            high_slope=self.high_slope.to(dtype),
            high_offset=self.high_offset.to(dtype),
            free=self.free,
        )

    def with_slope(self, slope: Tensor) -> Lines:
        """Return the lines with other slopes of the free lower lines, (n, ...), or (n, r, ...) for r functions."""
        if self.free is None:
            return self
        crossing, least = self.free
        fixed, valid = self.low_slope, clamped(slope, least, 1).to(self.low_slope.dtype)
        if slope.dim() > fixed.dim():
            crossing, fixed = crossing[:, None], fixed[:, None]
        return replace(self, low_slope=torch.where(crossing, valid, fixed))

    def split(self, signs: Tensor) -> Lines:
        """Return the lines where the operand is known to be >= 0 (sign 1) or <= 0 (sign -1), (n, ...); exact there."""
        if self.free is None:
            return self
        crossing, least = self.free
        decided = signs != 0
        slope = torch.where(signs > 0, 1.0, least).to(self.low_slope.dtype)
        nothing = torch.zeros_like(self.high_offset)
        return Lines(
            low_slope=torch.where(decided, slope, self.low_slope),
            low_offset=torch.where(decided, nothing, self.low_offset),
            high_slope=torch.where(decided, slope, self.high_slope),
            high_offset=torch.where(decided, nothing, self.high_offset),
            free=(crossing & ~decided, least),
        )

    def take(self, rows: Tensor) -> Lines:
        """Return the lines of some images."""
        return Lines(
            low_slope=self.low_slope[rows],
            low_offset=self.low_offset[rows],
            high_slope=self.high_slope[rows],
            high_offset=self.high_offset[rows],
            free=None if self.free is None else (self.free[0][rows], self.free[1]),
        )

    def magnitude(self, ends: Sequence[Interval]) -> Tensor:
        """Return a bound of the sum of the absolute values of the terms of either line, (n, ...)."""
        [end] = ends
        slope = torch.maximum(self.low_slope.abs(), self.high_slope.abs())
        if self.free is not None:
            slope = torch.where(self.free[0], slope.clamp_min(1), slope)
        return slope * end.magnitude + torch.maximum(self.low_offset.abs(), self.high_offset.abs())

    def back(self, slope: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rewrite linear functions (n, r, ...) of the value: constants (n, r) and functions of the operand."""
        # torch.where takes twice as long as the product with a matrix of 256 columns
        negative = slope.clamp(max=0)
        constant = dot(negative, self.high_offset)
        if self.low_offset.any():
            constant = constant + dot(slope - negative, self.low_offset)
        # optimised slopes may differ between the functions: (n, r, ...)
        low_slope = self.low_slope if self.low_slope.dim() == slope.dim() else self.low_slope[:, None]
        return constant, [torch.addcmul(slope * low_slope, negative, self.high_slope[:, None] - low_slope)]


class Activation:
    """Rule of an elementwise activation that does not decrease."""

    def __init__(self, name: str, function: NodeFunction) -> None:
        self._function = function
        self._parameters = list(function.settings.values())[1:]
        self._lines = ACTIVATIONS[name]
        self._undecided = _UNDECIDED.get(name)

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value: ends map to ends."""
        [(low, high)] = ends
        return Interval(self._function(low), self._function(high))

    def contested(self, ends: Sequence[Interval]) -> list[Tensor]:
        """Return True (n, ...) for operands over whose range the activation is not affine."""
        [(low, high)] = ends
        return [self._undecided(low, high, *self._parameters) if self._undecided else low < high]

    def relax(self, ends: Sequence[Interval]) -> Lines:
        """Return the lines over the range of the operand."""
        [(low, high)] = ends
        return self._lines(self._function, low, high, *self._parameters)


def _relu(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Lines:
    return _kinked(low, high, 0.0)


def _leaky_relu(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, alpha: float) -> Lines:
    if not 0 <= alpha <= 1:
        raise NotApplicable(f"linear bounds cannot follow LeakyRelu with alpha {alpha}; expected 0 to 1")
    return _kinked(low, high, alpha)


def _kinked(low: Tensor, high: Tensor, alpha: float) -> Lines:
    """Enclose max(x, alpha x): above by the chord, below by the one of its two lines with the smaller gap."""
    chord = (high - alpha * low) / (high - low).clamp_min(1e-300)
    crossing = (low < 0) & (high > 0)
    line = torch.where(low >= 0, 1.0, alpha).to(low.dtype)
    return Lines(
        low_slope=torch.where(crossing, torch.where(high > -low, 1.0, alpha).to(low.dtype), line),
        low_offset=torch.zeros_like(low),
        high_slope=torch.where(crossing, chord, line),
        high_offset=torch.where(crossing, (1 - chord) * high, torch.zeros_like(low)),
        free=(crossing, alpha),
    )


def _clip(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, least: Any = None, most: Any = None
) -> Lines:
    """Enclose max(least, .), then min(most, .), by composition; if both kinks are inside, by the ends."""
    floor = float("-inf") if least is None else float(least)
    ceiling = float("inf") if most is None else float(most)
    at_floor, at_ceiling = low < floor, high > ceiling
    nothing = torch.zeros_like(low)
    one, other = _kinked(low - floor, high - floor, 0.0), _kinked(ceiling - high, ceiling - low, 0.0)
    straight = torch.ones_like(low)
    result = Lines(low_slope=straight, low_offset=nothing, high_slope=straight, high_offset=nothing)
    if floor > float("-inf"):
        shifted = Lines(
            low_slope=one.low_slope,
            low_offset=floor + one.low_offset - one.low_slope * floor,
            high_slope=one.high_slope,
            high_offset=floor + one.high_offset - one.high_slope * floor,
        )
        result = _where(at_floor & ~at_ceiling, shifted, result)
    if ceiling < float("inf"):
        # min(x, c) = c - relu(c - x): below and above swap
        turned = Lines(
            low_slope=other.high_slope,
            low_offset=ceiling - other.high_offset - other.high_slope * ceiling,
            high_slope=other.low_slope,
            high_offset=ceiling - other.low_offset - other.low_slope * ceiling,
        )
        result = _where(at_ceiling & ~at_floor, turned, result)
    ends = Lines(low_slope=nothing, low_offset=function(low), high_slope=nothing, high_offset=function(high))
    return _where(at_floor & at_ceiling, ends, result)


def _where(which: Tensor, one: Lines, other: Lines) -> Lines:
    return Lines(
        low_slope=torch.where(which, one.low_slope, other.low_slope),
        low_offset=torch.where(which, one.low_offset, other.low_offset),
        high_slope=torch.where(which, one.high_slope, other.high_slope),
        high_offset=torch.where(which, one.high_offset, other.high_offset),
    )


def _bell(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Lines:
    """Enclose sigmoid or tanh, whose slope rises up to 0 and falls after it.

    Within an interval the slope is at least that at one of its ends; lines of that slope through the ends enclose them.
    """
    slope = torch.minimum(_derivative(function, low), _derivative(function, high))
    return Lines(
        low_slope=slope,
        low_offset=function(low) - slope * low,
        high_slope=slope,
        high_offset=function(high) - slope * high,
    )


def _derivative(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        x = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


ACTIVATIONS: Mapping[str, Callable[..., Lines]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "Sigmoid": _bell,
    "Tanh": _bell,
}


def _crossing(low: Tensor, high: Tensor, *_: Any) -> Tensor:
    return (low < 0) & (high > 0)


def _clipped(low: Tensor, high: Tensor, least: Any = None, most: Any = None) -> Tensor:
    floor = float("-inf") if least is None else float(least)
    ceiling = float("inf") if most is None else float(most)
    return ((low < floor) & (high > floor)) | ((low < ceiling) & (high > ceiling))


_UNDECIDED: Mapping[str, Callable[..., Tensor]] = {"Relu": _crossing, "LeakyRelu": _crossing, "Clip": _clipped}
"""Functions that return True for values whose activation is not affine over their range."""


def clamped(value: Tensor, least: float, most: float) -> Tensor:
    """Clamp, but keep the gradient at and beyond the ends, where most slopes and multipliers are."""
    return value.clamp(least, most) if not value.requires_grad else _Clamped.apply(value, least, most)


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, least: float, most: float) -> Tensor:
        return value.clamp(least, most)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None
