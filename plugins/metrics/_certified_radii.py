"""Search for the largest radius within which the label is proven to win."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.algorithms.bounds.bounder import Bounder
from auditor.algorithms.bounds.prover import Method, Prover
from auditor.algorithms.bounds.ranges import Known

_SMALLEST, _LARGEST = 2.0**-14, 2.0**2
"""Radii are searched between these."""

_REST, _AIM = 0.004, 0.0005
"""The search ends where at most this share of the margin is left, and aims at the second one."""

_STEEPNESS = 2.0
"""Power of the radius with which the used share of the margin grows, before it is known: 1 for a linear model."""


class Radii(NamedTuple):
    """Certified radii of n images, and how they were proven."""

    radius: NDArray[np.float64]
    """(n,); 0 if nothing is proven."""
    method: NDArray[np.int64]
    """Method that proved the largest of the requested epsilons, (n,)."""
    late: NDArray[np.bool_]
    """True where the time limit ended a proof, (n,)."""


def find_radii(
    bounder: Bounder,
    prover: Prover,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: str,
    slack: Tensor,
    epsilons: Sequence[float],
    iterations: int,
    seconds: float,
) -> Radii:
    """Search for the radius with linear bounds, then try the next larger epsilons with the other methods.

    pixels (n, c, h, w), labels (n,); margins must exceed ``slack`` (n,); ``seconds`` of branch and bound per image.
    """
    sizes = torch.tensor(sorted(epsilons), dtype=torch.float64)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for x, y, least in zip(*(part.split(bounder.images_at_once) for part in (pixels, labels, slack)), strict=True):
        known = Known(bounder.network, len(x))
        first = float(sizes[-1]) if len(sizes) else 1.0
        radius = _linear_radii(bounder, x, y, norm=norm, slack=least, first=first, iterations=iterations, known=known)
        found.append(
            _larger_epsilons(prover, x, y, radius, sizes, norm=norm, slack=least, seconds=seconds, known=known)
        )
    radius, method, late = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Radii(radius.numpy(), method.numpy(), late.numpy())


def _linear_radii(
    bounder: Bounder,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: str,
    slack: Tensor,
    first: float,
    iterations: int,
    known: Known,
) -> Tensor:
    """Return the radii (n,) found with at most ``iterations`` linear bounds of each image, the first at ``first``.

    The logarithm of the used share of the margin is almost a straight line over the logarithm of the radius; its zero
    is found by the Illinois algorithm (Dowell & Jarratt 1971, doi:10.1007/BF01934364).
    """
    n = len(pixels)
    at_image = bounder.logits(pixels).cpu()
    label = labels[:, None]
    rest = at_image.gather(1, label)[:, 0] - at_image.scatter(1, label, -torch.inf).amax(1) - slack
    # columns: the largest radius that holds and the smallest that fails
    sizes, shares = torch.full((n, 2), torch.nan).double(), torch.full((n, 2), torch.nan).double()
    size, last = torch.full((n,), math.log(first)).double(), torch.full((n,), -1)
    rows = (rest > 0).nonzero()[:, 0]
    for _ in range(iterations):
        if not len(rows):
            break
        _, bounds = bounder.bounds(pixels[rows], labels[rows], size[rows].exp(), norm, known, rows)
        share = (1 - (bounds.amin(1).cpu() - slack[rows]) / rest[rows]).clamp(1e-9, 1e9).log()
        side = (share >= 0).long()
        sizes[rows, side], shares[rows, side] = size[rows], share
        again = side == last[rows]
        shares[rows[again], 1 - side[again]] /= 2
        last[rows] = side
        size[rows] = _next(sizes[rows], shares[rows])
        left = (shares[rows, 0].nan_to_num(-1) < -_REST) & (size[rows] > math.log(_SMALLEST))
        rows = rows[left & (sizes[rows, 0].nan_to_num(-torch.inf) < math.log(_LARGEST))]
    return sizes[:, 0].exp().nan_to_num(0)


def _next(sizes: Tensor, shares: Tensor) -> Tensor:
    """Return the logarithm of the next radius (n,), from those of radii and used shares (n, 2); nan where unknown."""
    low, high = sizes.unbind(1)
    slope = ((shares[:, 1] - shares[:, 0]) / (high - low)).nan_to_num(_STEEPNESS)
    from_low, from_high = low + (-_AIM - shares[:, 0]) / slope, high + (-_AIM - shares[:, 1]) / slope
    return torch.where(low.isnan(), from_high, from_low).clamp(max=math.log(_LARGEST))


def _larger_epsilons(
    prover: Prover,
    pixels: Tensor,
    labels: Tensor,
    radius: Tensor,
    sizes: Tensor,
    *,
    norm: str,
    slack: Tensor,
    seconds: float,
    known: Known,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return radius, method of the largest proven of the increasing sizes, and where time was over; (n,) each."""
    radius, count = radius.clone(), torch.searchsorted(sizes, radius, right=True)
    method = torch.where(count > 0, int(Method.LINEAR), int(Method.NONE))
    late, left = torch.zeros(len(pixels), dtype=torch.bool), torch.full((len(pixels),), seconds, dtype=torch.float64)
    rows = (count < len(sizes)).nonzero()[:, 0]
    while len(rows):
        size = sizes[count[rows]]
        proofs = prover.prove(
            pixels[rows], labels[rows], size, norm, slack=slack[rows], seconds=left[rows], known=known, rows=rows
        )
        late[rows] |= proofs.late
        left[rows] = (left[rows] - proofs.seconds).clamp_min(0)
        proven = proofs.method != Method.NONE
        rows = rows[proven]
        radius[rows], method[rows] = size[proven], proofs.method[proven]
        count[rows] += 1
        rows = rows[count[rows] < len(sizes)]
    return radius, method, late
