"""The forward pass: range and relaxation of every operation over the balls of n images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from auditor.algorithms.bounds.affine import Affine
from auditor.algorithms.bounds.backward import minimum
from auditor.algorithms.bounds.ball import Ball, Interval
from auditor.algorithms.bounds.network import PIXELS, Network
from auditor.algorithms.bounds.operation import Relaxation
from auditor.algorithms.bounds.pixel_affine import PixelAffine, follow, of_pixels

_AT_ONCE = 1 << 21
"""Number of coefficients propagated backwards at once: larger pieces leave the cache of a core."""

_COEFFICIENTS = 1 << 26
"""Number of coefficients propagated backwards per image for the ranges of one value, if that is more than _FEWEST."""

_FEWEST = 64
"""Number of elements of a value that are refined in networks of any size."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Ranges of the values of a network over the balls of n images."""

    ball: Ball
    intervals: dict[str, Interval] = field(default_factory=dict)
    relaxations: dict[str, Relaxation] = field(default_factory=dict)
    """Of all operations that are not affine."""
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    """Bound of the sum of the absolute values of the terms of each operation."""

    def take(self, rows: Tensor) -> Ranges:
        """Return the ranges of some images, in any order and repetition."""
        return Ranges(
            ball=self.ball.take(rows),
            intervals={name: interval.take(rows) for name, interval in self.intervals.items()},
            relaxations={name: relaxation.take(rows) for name, relaxation in self.relaxations.items()},
            magnitudes={name: magnitude[rows] for name, magnitude in self.magnitudes.items()},
        )


def find_ranges(
    network: Network, fast: Network, ball: Ball, refine: int, known: Mapping[str, Interval] | None = None
) -> Ranges:
    """Enclose every value of ``network``, which is in double precision.

    Operands over whose interval an operator is not affine get bounds from the backward pass in the type of ``fast``,
    at most ``refine`` of them per value and image; those with the widest intervals come first. ``known`` are ranges of
    some values that are valid in the ball (``Known``).
    """
    known = known or {}
    found = Ranges(ball=ball)
    found.intervals[PIXELS] = ball.box
    affine: dict[str, PixelAffine] = {PIXELS: of_pixels(ball)}
    quick: dict[str, Relaxation] = {}
    tight: set[str] = set()
    for operation in network.operations:
        network.check_time()
        rule, operands = operation.rule, operation.operands
        contested = rule.contested([found.intervals[name] for name in operands])
        for name, which in zip(operands, contested, strict=True):
            exact = name in affine and affine[name].exact
            if which is not None and not exact and name not in tight:
                tight.add(name)
                found.intervals[name] = _tighten(fast, found, quick, name, which, refine)
        ends = [found.intervals[name] for name in operands]
        interval = rule.enclose(ends)
        if isinstance(rule, Affine):
            found.magnitudes[operation.name] = rule.magnitude(ends)
            if all(name in affine for name in operands):
                affine[operation.name] = follow(rule, [affine[name] for name in operands])
                if ball.norm == "l2":
                    interval = interval.intersect(affine[operation.name].within(ball))
        else:
            relaxation = rule.relax(ends)
            found.magnitudes[operation.name] = relaxation.magnitude(ends)
            found.relaxations[operation.name] = relaxation
            quick[operation.name] = relaxation.to(fast.dtype)
        found.intervals[operation.name] = (
            interval.intersect(known[operation.name]) if operation.name in known else interval
        )
    return found


class Known:
    """Ranges over balls around images that were bounded before: each is valid in all smaller balls.

    In these, only elements over whose known range an operator is not affine are bounded again.
    """

    def __init__(self, network: Network, n: int) -> None:
        """Start without ranges, for n images."""
        self._names = {name for one in network.operations if not isinstance(one.rule, Affine) for name in one.operands}
        self._rows = torch.arange(n)
        self._parts: list[tuple[Tensor, Tensor, dict[str, Interval]]] = []

    def take(self, rows: Tensor) -> Known:
        """Return the part for some of the images; what is added to it is added to all."""
        part = copy.copy(self)
        part._rows = self._rows[rows]
        return part

    def add(self, ranges: Ranges) -> None:
        """Keep the ranges of these images."""
        kept = {name: interval for name, interval in ranges.intervals.items() if name in self._names}
        self._parts.append((self._rows, ranges.ball.epsilon, kept))

    def within(self, epsilon: Tensor) -> dict[str, Interval]:
        """Return the ranges known in balls of ``epsilon`` (n,) around these images; infinite where none are."""
        found: dict[str, Interval] = {}
        for rows, size, intervals in self._parts:
            same = (self._rows[:, None] == rows).to(epsilon.device)
            at = same.long().argmax(1)
            valid = same.any(1) & (size[at] >= epsilon)
            if valid.any():
                for name, interval in intervals.items():
                    part = interval.take(at).where(valid)
                    found[name] = found[name].intersect(part) if name in found else part
        return found


def rows_at_once(network: Network, n: int) -> int:
    """Return how many linear functions of each of n images are propagated backwards at once."""
    return max(1, _AT_ONCE // (network.widest * n))


def _tighten(  # noqa: PLR0917
    network: Network, found: Ranges, relaxations: dict[str, Relaxation], name: str, which: Tensor, refine: int
) -> Interval:
    """Tighten those elements of a value where ``which`` (n, ...) is True, by the backward pass."""
    low, high = found.intervals[name]
    flags = which.flatten(1)
    most = min(refine, max(_FEWEST, _COEFFICIENTS // network.values))
    counts = flags.sum(1).clamp(max=most)
    widths = torch.where(flags, (high - low).flatten(1), -1.0)
    lower, upper = low.flatten(1).clone(), high.flatten(1).clone()
    for images in _alike(counts):
        near = found.take(images)
        quick = {operation: one.take(images) for operation, one in relaxations.items()}
        selected = widths[images].argsort(dim=1, descending=True, stable=True)[:, : int(counts[images].max())]
        for piece in selected.split(max(1, rows_at_once(network, len(images)) // 2), dim=1):
            units = torch.zeros(*piece.shape, flags.shape[1], dtype=network.dtype, device=low.device)
            units.scatter_(2, piece[:, :, None], 1.0)
            slopes = torch.cat([units, -units], 1).unflatten(2, low.shape[1:])
            bounds = minimum(network, name, slopes, near.ball, quick, magnitudes=near.magnitudes)
            # images with fewer elements are padded with others, whose bounds are as valid
            at = (images[:, None], piece)
            lower[at] = torch.fmax(lower[at], bounds[:, : piece.shape[1]])
            upper[at] = torch.fmin(upper[at], -bounds[:, piece.shape[1] :])
    return found.intervals[name].intersect(Interval(lower.view_as(low), upper.view_as(high)))


def _alike(counts: Tensor) -> list[Tensor]:
    """Return groups of images whose counts (n,) differ by at most a quarter, without those of count 0."""
    order = counts.argsort(descending=True, stable=True)
    groups: list[list[int]] = []
    for image, count in zip(order.tolist(), counts[order].tolist(), strict=True):
        if groups and 4 * count >= 3 * int(counts[groups[-1][0]]):
            groups[-1].append(image)
        elif count:
            groups.append([image])
    return [torch.tensor(group, device=counts.device) for group in groups]
