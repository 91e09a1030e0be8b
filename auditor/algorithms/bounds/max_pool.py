"""Max-pooling, enclosed between two affine functions of each window.

Above each value of a window, and below gamma + sum of relu(value - gamma). Each relu is replaced by the chord over its
range, with gamma such that the slopes of the chords sum to 1 if possible (Boopathy et al. 2018, arXiv:1811.12395,
section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from auditor.algorithms.bounds.ball import Interval
from auditor.algorithms.bounds.node_function import NodeFunction
from auditor.algorithms.bounds.rounding import dot
from auditor.errors import NotApplicable

_FAR = -1e100
"""Padding value: never the largest."""


@dataclass(frozen=True, kw_only=True)
class WindowLines:
    """Relaxation of a max-pooling: one value of each window below it, a weighted sum and a constant above it."""

    windows: _Windows
    selected: Tensor
    """(n, b c, values of a window, windows): 1 for the value whose lower bound is largest."""
    chord: Tensor
    constant: Tensor
    """(n, b c, windows)"""
    terms: int

    def to(self, dtype: torch.dtype) -> WindowLines:
        """Return the relaxation in another floating-point type."""
        selected, chord, constant = (part.to(dtype) for part in (self.selected, self.chord, self.constant))
        return WindowLines(windows=self.windows, selected=selected, chord=chord, constant=constant, terms=self.terms)

    def take(self, rows: Tensor) -> WindowLines:
        """Return the relaxation of some images."""
        selected, chord, constant = (part[rows] for part in (self.selected, self.chord, self.constant))
        return WindowLines(windows=self.windows, selected=selected, chord=chord, constant=constant, terms=self.terms)

    def magnitude(self, ends: Sequence[Interval]) -> Tensor:
        """Return a bound of the sum of the absolute values of the terms of either function, (n, ...)."""
        [end] = ends
        values = self.windows.of(end.magnitude)
        above = (values * self.chord).sum(2) + self.constant.abs()
        largest = torch.maximum(above, (values * self.selected).sum(2))
        return largest.reshape(len(largest), *self.windows.result)

    def back(self, slope: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rewrite linear functions (n, r, ...) of the value: constants (n, r) and functions of the operand."""
        flat = slope.reshape(*slope.shape[:2], *self.constant.shape[1:])
        up = flat.clamp(min=0)
        down = flat - up
        weighted = up[:, :, :, None] * self.selected[:, None] + down[:, :, :, None] * self.chord[:, None]
        return dot(down, self.constant), [self.windows.fold(weighted)]


class MaxPool:
    """Rule of a max-pooling in two dimensions."""

    def __init__(self, function: NodeFunction) -> None:
        self._function = function
        self._windows = _Windows(function)

    def enclose(self, ends: Sequence[Interval]) -> Interval:
        """Return the range of the value: ends map to ends."""
        [(low, high)] = ends
        return Interval(torch.vmap(self._function)(low), torch.vmap(self._function)(high))

    def contested(self, ends: Sequence[Interval]) -> list[Tensor]:
        """Return True (n, ...) for values that may be a window's largest, if another value may be so as well."""
        [(low, high)] = ends
        lows, highs = self._windows.of(low, _FAR), self._windows.of(high, _FAR)
        may = highs > lows.amax(2, keepdim=True)
        # the value with the largest lower bound may always be the largest
        may.scatter_(2, lows.argmax(2, keepdim=True), value=True)
        open_windows = (may & (may.sum(2, keepdim=True) > 1)).to(low.dtype)
        return [self._windows.fold(open_windows[:, None])[:, 0] > 0]

    def relax(self, ends: Sequence[Interval]) -> WindowLines:
        """Return the affine functions below and above the pooling."""
        [(low, high)] = ends
        lows, highs = self._windows.of(low, _FAR), self._windows.of(high, _FAR)
        floor, first = lows.max(2, keepdim=True)
        selected = torch.zeros_like(lows).scatter_(2, first, 1.0)
        width = (highs - lows).clamp_min(1e-300)
        counted = (highs > floor).to(low.dtype)
        weight = counted / width
        slack = (counted * highs / width).sum(2, keepdim=True) - 1
        gamma = (slack / weight.sum(2, keepdim=True).clamp_min(1e-300)).clamp(max=highs.amax(2, keepdim=True))
        gamma = torch.maximum(gamma, floor)
        chord = ((highs - gamma).clamp_min(0) / width).clamp(max=1)
        # the chord of relu(x - gamma), or the relu itself if the range is a point
        offset = torch.where(highs - lows > 1e-300, -chord * lows, (highs - gamma).clamp_min(0))
        chord = torch.where(highs - lows > 1e-300, chord, torch.zeros_like(chord))
        offset = torch.where(lows <= _FAR / 2, torch.zeros_like(offset), offset)
        return WindowLines(
            windows=self._windows,
            selected=selected,
            chord=chord,
            constant=(gamma + offset.sum(2, keepdim=True))[:, :, 0],
            terms=math.prod(self._windows.kernel) + 4,
        )


class _Windows:
    """Windows of a max-pooling, extracted by an affine function: (n, b c, values of a window, windows)."""

    def __init__(self, function: NodeFunction) -> None:
        from auditor.onnx.operators.linear import window_pads

        options, shape = function.settings, function.shapes[0]
        if len(shape) != 4 or options["ceil_mode"]:
            raise NotApplicable("linear bounds support MaxPool only in two dimensions and without ceil_mode")
        self.shape = shape
        self.kernel: tuple[int, ...] = tuple(options["kernel_shape"])
        self.strides: tuple[int, ...] = tuple(options["strides"] or (1, 1))
        self.dilations: tuple[int, ...] = tuple(options["dilations"] or (1, 1))
        sizes = list(shape[2:])
        kernel, strides, dilations = (list(part) for part in (self.kernel, self.strides, self.dilations))
        before, after = window_pads(sizes, kernel, strides, dilations, options["auto_pad"], options["pads"])
        self.pads = [before[1], after[1], before[0], after[0]]
        span = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        counts = [
            (size + b + a - s) // stride + 1
            for size, b, a, s, stride in zip(sizes, before, after, span, self.strides, strict=True)
        ]
        self.padded = tuple(size + b + a for size, b, a in zip(sizes, before, after, strict=True))
        self.result = (*shape[:2], *counts)
        """Shape of the value for one image."""

    def of(self, x: Tensor, padding: float = 0.0) -> Tensor:
        """Return the windows of x (n, b, c, h, w)."""
        flat = functional.pad(x.flatten(1, 2), self.pads, value=padding)
        windows = functional.unfold(flat, self.kernel, dilation=self.dilations, stride=self.strides)
        return windows.reshape(len(x), flat.shape[1], -1, windows.shape[2])

    def fold(self, windows: Tensor) -> Tensor:
        """Return the adjoint (n, r, b, c, h, w) of windows (n, r, b c, values of a window, windows)."""
        flat = windows.flatten(0, 1).flatten(1, 2)
        padded = functional.fold(flat, self.padded, self.kernel, dilation=self.dilations, stride=self.strides)
        return functional.pad(padded, [-side for side in self.pads]).reshape(*windows.shape[:2], *self.shape)
